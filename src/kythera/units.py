"""Native units and constants: every number inside kythera is in these.

Metre, nanosecond, GeV, radian, tesla and elementary charge are one; mass is counted in kilograms
(a density is in kg/m3) because materials and costs are. A quantity is written `3 * mm` where it
enters and `x / mm` where it leaves. Energies, momenta and masses of particles are in GeV (c = 1).

Axes: right-handed, z points up (against gravity), so a cosmic muon travels towards negative z;
x runs along the longer side of an instrument. Angles: theta from the vertical, phi from the x axis.

Constants: CODATA 2018 and Particle Data Group, Phys. Rev. D 110 (2024) 030001.
"""

# length
m = 1.0
km = 1e3 * m
cm = 1e-2 * m
mm = 1e-3 * m
um = 1e-6 * m
nm = 1e-9 * m
m2 = m**2
cm2 = cm**2
mm2 = mm**2
m3 = m**3
cm3 = cm**3

# time
ns = 1.0
us = 1e3 * ns
ms = 1e6 * ns
ps = 1e-3 * ns
s = 1e9 * ns
minute = 60 * s
hour = 3600 * s

# energy, momentum, mass of a particle
GeV = 1.0
eV = 1e-9 * GeV
keV = 1e-6 * GeV
MeV = 1e-3 * GeV
TeV = 1e3 * GeV

# angle
rad = 1.0
mrad = 1e-3 * rad
deg = 0.017453292519943295 * rad
sr = 1.0

# the rest
T = 1.0
e = 1.0
kg = 1.0
g = 1e-3 * kg
percent = 1e-2

# constants
c = 0.299792458 * m / ns
avogadro = 6.02214076e23
fine_structure = 7.2973525693e-3
classical_electron_radius = 2.8179403262e-15 * m
electron_mass = 0.51099895000e-3 * GeV
muon_mass = 105.6583755e-3 * GeV
proton_mass = 938.27208816e-3 * GeV
pion_mass = 139.57039e-3 * GeV
bethe_k = 0.307075 * MeV * cm2  # per mole: K = 4 pi N_A r_e^2 m_e c^2
