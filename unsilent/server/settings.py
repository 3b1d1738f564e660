"""Settings of a server: where it listens, what it keeps, and its limits."""

import ipaddress
from pathlib import Path

from pydantic import Field

from unsilent.choices import AnyPrecision, Device
from unsilent.config import Config

PAGE = Path(__file__).parents[1] / "web"
EXAMPLE = PAGE / "example.mp4"


class Settings(Config):
    """Settings of one server; `unsilent serve --help` says the same of its options."""

    folder: Path = Field(description="Folder of uploads, results and the table of jobs.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; loopback is for this machine alone.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    token: str | None = Field(default=None, min_length=8, description="Secret that every request must bring; None asks for none.")
    model: str = Field(default="everyday", description="Model that is loaded at the start.")
    device: Device = Field(default="auto", description="Where to compute.")
    precision: AnyPrecision = Field(default="auto", description="Numeric precision.")
    ray: str | None = Field(default=None, description="Address of a Ray cluster whose replicas compute; None computes here.")
    replicas: int = Field(default=1, ge=1, description="Replicas on the cluster, each with its own models.")
    manifest: Path | None = Field(default=None, description="Manifest whose material can be browsed.")
    reports: Path | None = Field(default=None, description="Folder of reports of `unsilent evaluate`, and the sounds beside them.")
    max_bytes: int = Field(default=2 << 30, ge=1, description="Bytes of an upload.")
    max_seconds: float = Field(default=1800.0, gt=0, description="Seconds of an upload, and of a sound that is asked for.")
    max_pictures: int = Field(default=120_000, ge=1, description="Frames of a video.")
    max_pixels: int = Field(default=8192 * 4352, ge=1, description="Pixels of a frame.")
    max_takes: int = Field(default=200, ge=1, description="Takes of a job, times candidates.")
    max_waiting: int = Field(default=64, ge=1, description="Jobs that wait.")
    max_waiting_each: int = Field(default=8, ge=1, description="Jobs of one client that wait.")
    max_uploads: int = Field(default=64, ge=1, description="Uploads at the same time.")
    max_stored: int = Field(default=20 << 30, ge=1, description="Bytes of all uploads and results.")
    max_memory: int = Field(default=4 << 30, ge=1 << 30, description="Bytes of memory of a process that computes on the CPU.")
    keep_hours: float = Field(default=72.0, gt=0, description="Hours after which uploads and results are deleted.")
    read_seconds: float = Field(default=30.0, gt=0, description="Longest pause within an upload.")

    @property
    def model_name(self) -> str:
        """How clients name the model of the start, which may lie in any folder."""
        return Path(self.model).name

    def model_of(self, name: str) -> str:
        """Name or path of the model that a client names."""
        return self.model if name == self.model_name else name

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
