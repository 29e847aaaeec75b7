"""Exposure bias in flow matching: train, sample, measure, draw. Names are imported on first use (PEP 562)."""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "core.interpolants": ("Coefficients", "Interpolant", "Linear", "GVP", "VP", "PathPoint"),
    "core.rollout": ("Draw", "Rollout", "VelocityModel", "rollout", "exposure_bias"),
    "core.devices": ("keep_heap",),
    "core.couplings": ("Coupling", "Independent", "MinibatchOT"),
    "core.objectives": (
        "Alignment", "FlowMatching", "InputPerturbation", "SDSS", "MDSS", "Defar", "MixFlow", "reflexflow",
        "simpletuner", "strong", "LossTerms", "Objective", "compensation_weight",
    ),
    "core.networks": ("SiT", "sit"),
    "core.networks.toy": ("PlaneMLP",),
    "core.oracles": ("GaussianFlow", "MixtureFlow"),
    "core.samplers": ("sample", "Sample", "Euler", "Heun", "Dopri5", "EulerMaruyama"),
    "core.seeding": ("image_noise", "sde_generators", "balanced_labels", "random_labels"),
    "core.guidance": ("CFG", "Autoguidance", "DiscriminatorGuidance"),
    "core.corrections": ("EpsilonScaling", "LabelShift", "TargetShift", "DCW", "DCWHaar"),
    "core.adapters": ("Adapted", "Conventions", "adapt"),
    "core.checkpoints": ("Checkpoint", "Card", "as_checkpoint", "load_checkpoint", "save_checkpoint"),
    "core.foreign.importing": ("ImportOptions", "import_model"),
    "core.datasets": ("Batch", "ImageDataset", "cifar10", "open_dataset"),
    "core.codecs": ("PixelCodec", "VAECodec", "open_codec"),
    "core.latents": ("LatentDataset", "open_latents"),
    "core.autoencoder_training": ("train_autoencoder",),
    "core.recipes": ("Recipe", "load_recipe"),
    "core.training": ("train",),
    "core.discriminators": ("DiscriminatorRecipe", "load_discriminator", "load_discriminator_recipe"),
    "core.discriminator_training": ("train_discriminator",),
    "measures.base": ("Context", "Measurement", "TimeGrid", "measure"),
    "measures.cost": ("StepCost", "count_step", "measure_steps"),
    "measures.frequency": ("PFR", "crossings", "restoration"),
    "measures.emphasis": ("FEL",),
    "measures.maps": ("BiasMaps",),
    "measures.velocity_error": ("VelocityError",),
    "measures.spectral": (
        "predicted_frequency_ratio", "saliency_masks", "frequency_emphasis", "low_pass", "high_pass",
        "band_masks", "radial_frequency",
    ),
    "measures.quality": (
        "frechet_distance", "inception_score", "precision_recall", "kernel_distance", "spatial_features", "Moments",
        "FrechetReference",
    ),
    "measures.protocols": ("Protocol", "protocol"),
    "measures.references": ("Reference", "open_reference"),
    "measures.evaluation": ("Evaluation", "evaluate", "differences"),
    "errors": ("DefarError",),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
