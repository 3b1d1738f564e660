"""Settings of a server: its address, its folder and its limits."""

import ipaddress
from pathlib import Path

from pydantic import Field

from unsilent.choices import AnyPrecision, Device
from unsilent.config import Config

PAGE = Path(__file__).parents[1] / "web"
EXAMPLE = PAGE / "example.mp4"


class Settings(Config):
    """Settings of a server, which are also the options of `unsilent serve`."""

    folder: Path = Field(description="Folder for uploads, results and the database of jobs.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; a loopback address can only be reached from this machine.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    token: str | None = Field(default=None, min_length=8, description="Secret token that every request must carry; None needs no token.")
    model: str = Field(default="everyday", description="Default model, which is loaded at the start.")
    device: Device = Field(default="auto", description="Device to compute on.")
    precision: AnyPrecision = Field(default="auto", description="Numeric precision.")
    ray: str | None = Field(default=None, description="Address of a Ray cluster to run jobs on; None runs them in this process.")
    replicas: int = Field(default=1, ge=1, description="Number of replicas on the cluster, each with its own models.")
    manifest: Path | None = Field(default=None, description="Manifest whose clips can be browsed.")
    reports: Path | None = Field(default=None, description="Folder of reports from `unsilent evaluate`, with their sounds.")
    max_bytes: int = Field(default=2 << 30, ge=1, description="Maximum bytes of an upload.")
    max_seconds: float = Field(default=1800.0, gt=0, description="Maximum seconds of an upload and of a requested sound.")
    max_pictures: int = Field(default=120_000, ge=1, description="Maximum frames of a video.")
    max_pixels: int = Field(default=8192 * 4352, ge=1, description="Maximum pixels of a frame.")
    max_takes: int = Field(default=200, ge=1, description="Maximum of takes times candidates in a job.")
    max_waiting: int = Field(default=64, ge=1, description="Maximum waiting jobs of all clients.")
    max_waiting_each: int = Field(default=8, ge=1, description="Maximum waiting jobs of one client.")
    max_uploads: int = Field(default=64, ge=1, description="Maximum simultaneous uploads.")
    max_stored: int = Field(default=20 << 30, ge=1, description="Maximum bytes of all uploads and results.")
    max_memory: int = Field(default=4 << 30, ge=1 << 30, description="Maximum bytes of memory of a process that computes on the CPU.")
    keep_hours: float = Field(default=72.0, gt=0, description="Hours after which uploads and results are deleted.")
    read_seconds: float = Field(default=30.0, gt=0, description="Maximum pause within an upload in seconds.")

    @property
    def model_name(self) -> str:
        """Name of the default model for clients; its folder may have any path."""
        return Path(self.model).name

    def model_of(self, name: str) -> str:
        """Translate a client's model name to the name or path that `unsilent.load` takes."""
        return self.model if name == self.model_name else name

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
