"""Mean and standard deviation of each mel band, which standardise the input of the classifiers and of the perceptual distance."""

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from unsilent.config import Config
from unsilent.errors import ParameterError

# Statistics of the mels in [0, 1] of the VGGSound training clips, lowest band first.
# Source: the authors' train_means_stds_melspec_10s_22050hz.txt (eight digits).
VGGSOUND_MEAN = (
    0.51234712, 0.52630101, 0.52002938, 0.51831866, 0.52457265, 0.51129235, 0.51403755, 0.51189406, 0.50142221, 0.50632402,
    0.49724399, 0.49062130, 0.49971113, 0.48442903, 0.48598301, 0.48681630, 0.47436119, 0.48031359, 0.47422810, 0.46369397,
    0.47413055, 0.46062686, 0.45677793, 0.46135474, 0.45246800, 0.45232766, 0.45208386, 0.44351671, 0.44667316, 0.44447692,
    0.43676363, 0.44002381, 0.43772414, 0.43061019, 0.43120828, 0.42603271, 0.42863234, 0.42296206, 0.41733331, 0.41804121,
    0.41605068, 0.40875265, 0.40666997, 0.40407463, 0.40353311, 0.39708031, 0.39375066, 0.39301091, 0.39047117, 0.38461680,
    0.38145284, 0.37985209, 0.37419526, 0.37080597, 0.36786535, 0.36569049, 0.36336079, 0.35775191, 0.35504801, 0.35284816,
    0.34594865, 0.34112312, 0.33784886, 0.33095703, 0.32559461, 0.32003106, 0.31506222, 0.31138077, 0.30403516, 0.29969540,
    0.29578024, 0.28861871, 0.28581686, 0.27922253, 0.27444035, 0.27339468, 0.26571759, 0.26280864, 0.25664202, 0.24853513,
)  # fmt: skip
VGGSOUND_STD = (
    0.08187601, 0.08393201, 0.08533191, 0.08651366, 0.08795700, 0.08924046, 0.09011565, 0.09138965, 0.09215379, 0.09251092,
    0.09356590, 0.09333057, 0.09446411, 0.09400197, 0.09477853, 0.09487848, 0.09424447, 0.09417475, 0.09498061, 0.09362415,
    0.09453825, 0.09481226, 0.09359464, 0.09437913, 0.09384014, 0.09438247, 0.09419720, 0.09340880, 0.09423184, 0.09344461,
    0.09265266, 0.09307925, 0.09299363, 0.09236166, 0.09156491, 0.09161403, 0.09150530, 0.09102536, 0.09048366, 0.09025013,
    0.09078869, 0.08985338, 0.08877566, 0.08961667, 0.08859275, 0.08827818, 0.08833999, 0.08760654, 0.08812327, 0.08782288,
    0.08645484, 0.08718211, 0.08644421, 0.08532454, 0.08592822, 0.08452069, 0.08474272, 0.08476392, 0.08334654, 0.08412110,
    0.08367254, 0.08252251, 0.08320975, 0.08257768, 0.08171253, 0.08204872, 0.08098545, 0.08152917, 0.08209135, 0.08073266,
    0.08225822, 0.08324076, 0.08058489, 0.08515350, 0.08355056, 0.08067638, 0.08536921, 0.08107620, 0.08357468, 0.08556041,
)  # fmt: skip


class BandStatistics(Config):
    """Means and standard deviations of mels in [0, 1], lowest band first; the defaults are VGGSound's.

    They are part of a network's configuration, because they belong to its training data.

    Raises:
        ParameterError: if the numbers of means and deviations differ, or a deviation is not above 0.
    """

    mean: tuple[float, ...] = Field(default=VGGSOUND_MEAN, description="Mean of each band of mels in [0, 1].")
    std: tuple[float, ...] = Field(default=VGGSOUND_STD, description="Standard deviation of each band, above 0.")

    @model_validator(mode="after")
    def _fit(self) -> "BandStatistics":
        if len(self.mean) != len(self.std):
            raise ParameterError(f"{len(self.mean)} means and {len(self.std)} standard deviations were given; every band has one of each.")
        for band, std in enumerate(self.std):
            if not std > 0:
                raise ParameterError(f"band {band} has a standard deviation of {std}; it must be above 0. Leave out constant bands.")
        return self

    @property
    def mels(self) -> int:
        """Number of bands."""
        return len(self.mean)


def normalise_bands(mel01: Float[Tensor, "batch mels frames"], bands: BandStatistics) -> Float[Tensor, "batch mels frames"]:
    """Standardise mels in [0, 1] per band: `(mel01 - mean) / std`.

    Raises:
        ParameterError: if the mel has a different number of bands.
    """
    if mel01.shape[1] != bands.mels:
        raise ParameterError(f"a mel of {mel01.shape[1]} bands was given; the network has statistics of {bands.mels} bands.")
    mean, std = (mel01.new_tensor(values).unsqueeze(1) for values in (bands.mean, bands.std))
    return (mel01 - mean) / std
