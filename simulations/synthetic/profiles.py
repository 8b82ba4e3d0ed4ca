"""The virtual hospitals: everything in which one synthetic site differs from another.

No site stands for a real hospital and no manufacturer for a real one. Sites differ in
appearance (display LUT, noise, blur, spacing, bits), in patients (density, prevalence,
numbers) and in geometry, but never in how a finding shows that it is malignant.
"""

from __future__ import annotations

from dataclasses import dataclass

DENSITIES = ("A", "B", "C", "D")
LATERALITIES = ("L", "R")
VIEWS = ("CC", "MLO")


@dataclass(frozen=True)
class SiteProfile:
    """One synthetic hospital.

    Attributes
    ----------
    site : lower-case slug, also the folder's name
    manufacturer, model : invented; written to the DICOM header
    patient_share : this site's patients per ``patients_per_site``
    prevalence : probability that a patient has one malignant breast
    density_mix : probabilities of densities A, B, C, D; they sum to 1
    field_height_mm : height of the detector; spacing = field_height_mm / rows
    mirrored : True puts the chest wall on the right for left breasts
    blur_mm : standard deviation of the detector's Gaussian blur
    noise : standard deviation of the noise at signal 1
    gamma : exponent baked into the stored pixels
    bits : BitsStored
    monochrome1 : True stores the inverted image
    voi_function : VOILUTFunction (0028,1056): LINEAR or SIGMOID
    window : centre and width as fractions of the stored range, before inversion
    padded : True replaces the air around the breast by PixelPaddingValue
    """

    site: str
    manufacturer: str
    model: str
    patient_share: float
    prevalence: float
    density_mix: tuple[float, float, float, float]
    field_height_mm: float
    mirrored: bool
    blur_mm: float
    noise: float
    gamma: float
    bits: int
    monochrome1: bool
    voi_function: str
    window: tuple[float, float]
    padded: bool

    @property
    def top(self) -> int:
        """Largest value that fits in ``bits``."""
        return (1 << self.bits) - 1


FEDERATION = (
    SiteProfile(
        site="north",
        manufacturer="Borealis Synthetic",
        model="Aurora 12",
        patient_share=1.10,
        prevalence=0.36,
        density_mix=(0.10, 0.40, 0.40, 0.10),
        field_height_mm=240.0,
        mirrored=False,
        blur_mm=0.25,
        noise=0.025,
        gamma=1.0,
        bits=12,
        monochrome1=False,
        voi_function="LINEAR",
        window=(0.47, 0.82),
        padded=False,
    ),
    SiteProfile(
        site="harbour",
        manufacturer="Quayside Synthetic",
        model="Pilot FD",
        patient_share=1.00,
        prevalence=0.40,
        density_mix=(0.05, 0.30, 0.45, 0.20),
        field_height_mm=255.0,
        mirrored=False,
        blur_mm=0.45,
        noise=0.045,
        gamma=0.85,
        bits=14,
        monochrome1=False,
        voi_function="SIGMOID",
        window=(0.42, 0.50),
        padded=True,
    ),
    SiteProfile(
        site="lakeside",
        manufacturer="Reedbed Synthetic",
        model="Heron CR",
        patient_share=0.95,
        prevalence=0.44,
        density_mix=(0.15, 0.45, 0.32, 0.08),
        field_height_mm=246.0,
        mirrored=True,
        blur_mm=0.60,
        noise=0.080,
        gamma=0.50,
        bits=12,
        monochrome1=True,
        voi_function="LINEAR",
        window=(0.60, 0.84),
        padded=True,
    ),
    SiteProfile(
        site="hilltop",
        manufacturer="Ridgeway Synthetic",
        model="Summit 16",
        patient_share=0.95,
        prevalence=0.40,
        density_mix=(0.08, 0.35, 0.42, 0.15),
        field_height_mm=262.0,
        mirrored=False,
        blur_mm=0.35,
        noise=0.035,
        gamma=1.60,
        bits=16,
        monochrome1=False,
        voi_function="LINEAR",
        window=(0.40, 0.80),
        padded=False,
    ),
)

PUBLIC = SiteProfile(
    site="public",
    manufacturer="Commons Synthetic",
    model="Open 13",
    patient_share=1.50,
    prevalence=0.45,
    density_mix=(0.12, 0.38, 0.38, 0.12),
    field_height_mm=250.0,
    mirrored=False,
    blur_mm=0.40,
    noise=0.035,
    gamma=1.20,
    bits=13,
    monochrome1=False,
    voi_function="LINEAR",
    window=(0.42, 0.80),
    padded=False,
)

ALL_SITES = (*FEDERATION, PUBLIC)
