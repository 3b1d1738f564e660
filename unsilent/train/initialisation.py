"""Random initial weights as in the released trainings, for parts that this project initialises differently; runs can select them."""

import torch
from torch import nn

from unsilent.models.melception import Melception
from unsilent.models.sampler import Sampler
from unsilent.models.vggishish import VGGishish

_MELCEPTION_STD, _AUXILIARY_STD = 0.1, 0.001  # standard deviations of all layers, and of the auxiliary classifier's last layer


@torch.no_grad()
def initialise_as_released(module: Sampler | VGGishish | Melception) -> None:
    """Initialise, in place, the parts of a new network that the released code initialises differently.

    Source:
        Sampler: the feature embedder is a convolution of kernel size 1 with torch's default, uniform in ± `1 / sqrt(feature_dim)`; the
        class embedder has torch's default, standard deviation 1, because it is created after minGPT's initialisation (mingpt.py GPTFeats,
        GPTClass). VGGish-ish: linear layers with standard deviation 0.01 and zero bias (reset_parameters). Melception: torchvision's
        Inception v3 with `init_weights`: normal weights of standard deviation 0.1, truncated at ±2; 0.001 in the last auxiliary layer.
    """
    if isinstance(module, Sampler):
        features, classes = module.embedder.feature_embedder, module.embedder.class_embedder
        if features is not None:
            features.reset_parameters()
        if classes is not None:
            classes.reset_parameters()
    elif isinstance(module, VGGishish):
        for layer in module.classifier:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
    else:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                std = _AUXILIARY_STD if name == "AuxLogits.fc" else _MELCEPTION_STD
                nn.init.trunc_normal_(layer.weight, std=std, a=-2, b=2)
