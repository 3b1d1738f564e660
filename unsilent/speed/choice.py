"""Choice of device and precision."""

import torch

from unsilent.choices import AnyPrecision, Device, Precision, check_choice
from unsilent.errors import ParameterError
from unsilent.models.configs import AnySamplerConfig
from unsilent.speed import cpu_transformer


def choose_device(asked: Device) -> torch.device:
    """The device that computes; `auto` is a GPU if there is one.

    Raises:
        ParameterError: for a device that is not present.
    """
    check_choice("device", asked, Device)
    if asked == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device is cuda, but this machine has no CUDA device; use cpu or auto.")
    return torch.device("cuda" if torch.cuda.is_available() and asked != "cpu" else "cpu")


def choose_precision(asked: AnyPrecision, device: torch.device, config: AnySamplerConfig) -> Precision:
    """The precision of the computation.

    A sampling step takes as long as reading its weights from memory, so on a CPU the smallest dtype with fast multiplication is fastest.

    Args:
        asked: `auto` is bfloat16 on a GPU, int8 on a CPU with AVX2 or AVX-512 VNNI, and float32 on others.
        device: device that computes.
        config: the sampler's configuration.

    Raises:
        ParameterError: for int8, if the device, the installation or the width does not support it.
    """
    check_choice("precision", asked, AnyPrecision)
    packable = can_pack(config, device)
    if asked == "auto":
        if device.type == "cuda":
            return "bfloat16"
        return "int8" if packable and cpu_transformer.multiplies_int8() else "float32"
    if asked == "int8" and not packable:
        no_compiler = "" if cpu_transformer.is_built() else "unsilent was installed without a C compiler"
        why = "this is a GPU" if device.type == "cuda" else no_compiler
        width = config.transformer.width
        raise ParameterError(
            f"precision int8 cannot be computed: {why or f'a width of {width} is not a multiple of 64'}; use float32 or auto."
        )
    return asked


def can_pack(config: AnySamplerConfig, device: torch.device) -> bool:
    """Whether a sampler's transformer is packed for the C extension at loading; otherwise torch computes it."""
    return device.type == "cpu" and cpu_transformer.is_built() and cpu_transformer.fits(config.transformer)


def convolution_dtype(precision: Precision) -> torch.dtype:
    """Dtype of convolutional networks, except int8 layers: bfloat16 if requested, or for int8 if the CPU multiplies bfloat16 natively."""
    native = precision == "int8" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if precision == "bfloat16" or native else torch.float32
