"""Pure functions of physics: materials, scattering, energy loss, the muons of the sky.

Each function names its formula, source, units and range of validity. All of them work
under jit, vmap and grad, in float32 and in float64. Momenta and energies are in GeV,
lengths in m, densities in kg/m3.
"""
