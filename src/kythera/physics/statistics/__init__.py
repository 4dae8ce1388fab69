"""Pure functions of statistical inference: information, limits, discoveries, fits.

Each function names its formula and source, works under jit, vmap and grad, in float32 and
in float64, and takes plain arrays. What no array can say (a singular matrix, an empty bin)
is an error where values are known, and NaN under `jit`: never a wrong number.
"""
