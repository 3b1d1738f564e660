"""The time and frequency grid. All lengths derive from it: samples, mel frames, code columns, visual features, seconds.

A clip is the input of one network pass (9.845 s in the paper). Longer videos are covered by windows of one clip each.
"""

from pydantic import Field, model_validator

from unsilent.config import MAX_DEPTH, MAX_SIZE, Config
from unsilent.errors import ParameterError


class Clip(Config):
    """The time and frequency grid of mels, codes, features and waveforms.

    The defaults are the paper's: 80 x 848 mels from 22 050 Hz sound, a 5 x 53 grid of codes, 212 visual features.

    Raises:
        ParameterError: if mel bands or frames are not multiples of the downsampling; the message has both numbers.

    Source:
        Paper section 4 "Details"; exact constants from the released extract_mel_spectrogram.py and configs.
    """

    sample_rate: int = Field(default=22050, gt=0, le=MAX_SIZE, description="Sample rate, in Hz.")
    n_fft: int = Field(default=1024, gt=0, le=MAX_SIZE, description="Samples of one STFT window.")
    hop: int = Field(default=256, gt=0, le=MAX_SIZE, description="Samples between mel frames (hop length).")
    mels: int = Field(default=80, gt=0, le=MAX_SIZE, description="Mel bands.")
    lowest_hz: float = Field(default=125.0, ge=0, description="Lower edge of the first mel band (fmin), in Hz.")
    highest_hz: float = Field(default=7600.0, gt=0, description="Upper edge of the last mel band (fmax), in Hz.")
    frames: int = Field(default=848, gt=0, le=MAX_SIZE, description="Mel frames of one clip.")
    downsampling: int = Field(
        default=16, gt=0, le=MAX_SIZE, description="Mel frames per code column, and mel bands per code row where rows are bands."
    )
    levels: int = Field(
        default=0, ge=0, le=MAX_DEPTH, description="Code rows of a residual codebook, coarsest first; 0: rows are frequency bands."
    )
    feature_fps: float = Field(default=21.5, gt=0, description="Visual features per second.")

    @model_validator(mode="after")
    def _divides(self) -> "Clip":
        for name, length in (("mels", self.mels), ("frames", self.frames)):
            if length % self.downsampling:
                raise ParameterError(f"a clip of {length} {name} is not a multiple of the downsampling {self.downsampling}.")
        return self

    @property
    def rows(self) -> int:
        """Code rows: frequency bands, 5 in the paper, or the levels of a residual codebook."""
        return self.levels or self.mels // self.downsampling

    @property
    def columns(self) -> int:
        """Code columns (time): 53 in the paper."""
        return self.frames // self.downsampling

    @property
    def n_codes(self) -> int:
        """Codes of one clip, the length of the sampler's sequence: rows x columns, 265 in the paper."""
        return self.rows * self.columns

    @property
    def n_samples(self) -> int:
        """Samples of one clip: 217 088 in the paper."""
        return self.frames * self.hop

    @property
    def column_samples(self) -> int:
        """Samples of one code column: 4096 in the paper."""
        return self.downsampling * self.hop

    @property
    def seconds(self) -> float:
        """Duration of one clip: 9.845 s in the paper."""
        return self.n_samples / self.sample_rate

    @property
    def column_seconds(self) -> float:
        """Duration of one code column: 0.186 s in the paper."""
        return self.column_samples / self.sample_rate

    @property
    def column_features(self) -> int:
        """Visual features of one code column: 4 in the paper."""
        return max(1, round(self.column_seconds * self.feature_fps))

    @property
    def n_features(self) -> int:
        """Visual features of one clip: 212 in the paper."""
        return self.column_features * self.columns

    @property
    def hop_columns(self) -> int:
        """New columns of each sampling window after the first: half a clip, 26 in the paper; the other half is known context."""
        return max(1, self.columns // 2)

    def columns_for(self, n_samples: int) -> int:
        """Code columns that cover `n_samples`, rounded up; at least 1."""
        return max(1, -(-n_samples // self.column_samples))
