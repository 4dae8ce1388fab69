"""Names of the array types that the signatures use."""

from typing import TYPE_CHECKING, Any

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

if TYPE_CHECKING:  # pyright does not know Equinox' marker
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar

Key = PRNGKeyArray
Scalar = Float[Array, ""]
Vector = Float[Array, " n"]
Design = Any

__all__ = [
    "AbstractClassVar",
    "Array",
    "Bool",
    "Design",
    "Float",
    "Int",
    "Key",
    "PyTree",
    "Scalar",
    "Vector",
]
