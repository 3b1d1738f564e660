"""Random first weights as in the released trainings, where this project's own differ; settings of runs ask for them."""

import torch
from torch import nn

from unsilent.models.melception import Melception
from unsilent.models.sampler import Sampler
from unsilent.models.vggishish import VGGishish

_MELCEPTION_STD, _AUXILIARY_STD = 0.1, 0.001  # of all layers, and of the last of the auxiliary classifier


@torch.no_grad()
def initialise_as_released(module: Sampler | VGGishish | Melception) -> None:
    """Draw the weights of a new network again, in place, where the released code draws them otherwise.

    Source:
        Sampler: the feature embedder is a convolution of width 1 with torch's default, uniform within `1 / sqrt(feature_dim)`; the class
        embedder has torch's default, of standard deviation 1, because it is made after minGPT's initialisation (mingpt.py GPTFeats,
        GPTClass). VGGish-ish: linear layers of standard deviation 0.01 without bias (reset_parameters). Melception: torchvision's
        Inception v3 with `init_weights`, normal weights of standard deviation 0.1 within 2, of 0.001 in the last auxiliary layer.
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
