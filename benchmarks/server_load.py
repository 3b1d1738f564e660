"""The server under load: cold start, overhead compared with the command, and many clients, some misbehaving, with `kill -9` halfway.

    python benchmarks/server_load.py --clients 50

Every client uploads a video, submits a job for a short sound with its own seed, and waits. Meanwhile other clients send slowly, disconnect,
send too much, send files that are not media, or use hostile names. When a third of the jobs is done, the server is killed and restarted. At
the end every accepted job must be done, and every client must have its own result.
"""

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from unsilent import Client, Request
from unsilent.errors import UnsilentError

CLIP = Path(__file__).parents[1] / "demo" / "cat.mp4"
MEANINGFUL_SECONDS = 2.0  # minimum wait for a meaningful ratio of estimated to actual wait
HOSTILE = ["../../../etc/passwd", "C:\\x\\..\\y.mp4", "a\r\nSet-Cookie: x=y.mp4", "<script>alert(1)</script>.mp4", "x" * 4000 + ".mp4"]


class Server:
    """A server process that can be killed and restarted with the same address and folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options, self.port = folder, options, 0
        self.start()

    def start(self) -> float:
        """Start the server. Returns the seconds until it serves the page."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "unsilent", "serve", "--port", str(self.port), "--folder", str(self.folder), *self.options]
        self.log = (self.folder.parent / "server.log").open("a+")
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.address = re.search(r"http://\S+", self.process.stderr.readline())[0]
        self.port = int(self.address.rstrip("/").rpartition(":")[2])
        threading.Thread(target=self._drain, args=(self.process.stderr,), daemon=True).start()
        urlopen(self.address).read()
        return time.perf_counter() - began

    def _drain(self, stream) -> None:
        for line in stream:
            self.log.write(line)
            self.log.flush()

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server has used, which does not depend on other load; only on Linux."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """Kill the server."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def metric(self, name: str) -> float:
        """Return a value from the server's metrics."""
        return float(re.search(rf"^{name} (\S+)$", urlopen(f"{self.address}metrics").read().decode(), re.M)[1])

    def wait_until_warm(self) -> None:
        """Wait until the server has loaded its model."""
        while b'"is_warm":true' not in urlopen(f"{self.address}api/health").read():
            time.sleep(0.2)


def cost(runs: int) -> None:
    """Print the seconds of a generation with the command and with a warm server, measured alternately."""
    by_command, by_server = [], []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "served")
        server.wait_until_warm()
        client = Client(server.address)
        for run in range(runs + 1):
            began = time.perf_counter()
            command = [sys.executable, "-m", "unsilent", "generate", str(CLIP), "-o", f"{folder}/{run}.mp4", "--wav", "--seed", str(run)]
            subprocess.run(command, check=True, capture_output=True)
            middle = time.perf_counter()
            client.generate(CLIP, Path(folder) / "out", seed=run)
            if run:  # the first run is a warm-up
                by_command.append(middle - began)
                by_server.append(time.perf_counter() - middle)
        server.kill()
    command, served = statistics.median(by_command), statistics.median(by_server)
    print(f"generation of {CLIP.name}: {command:.2f} s by the command, {served:.2f} s through the server, {served / command:.2f} times")


def bad(server: Server, kind: str, number: int, seen: Counter) -> None:
    """Run a misbehaving client."""
    body = CLIP.read_bytes()
    head = f"PUT /api/inputs?name=x.mp4 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    try:
        if kind in ("hostile name", "no media"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "x.mp4"
                path.write_bytes(body if kind == "hostile name" else os.urandom(20_000))
                client = Client(server.address)
                if kind == "hostile name":
                    from urllib.parse import quote

                    found = client._json("PUT", f"/api/inputs?name={quote(HOSTILE[number % len(HOSTILE)])}", body)["name"]
                    seen[f"{kind}: kept as a safe name" if re.fullmatch(r"[\w-]+\.\w+", found) else f"{kind}: KEPT AS {found!r}"] += 1
                else:
                    client.upload(path)
                    seen[f"{kind}: TAKEN"] += 1
            return
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            if kind == "too large":
                connection.sendall(f"{head}Content-Length: {10**12}\r\n\r\n".encode())
            elif kind == "vanishes":
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
                seen["vanishes: went"] += 1
                return
            elif kind == "slow":
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
                with suppress(OSError):
                    for at in range(60):
                        connection.sendall(body[at : at + 1])
                        time.sleep(1)
            answer = connection.recv(100).decode(errors="replace").splitlines() or ["closed"]
            seen[f"{kind}: {answer[0]}"] += 1
    except (UnsilentError, OSError) as error:
        seen[f"{kind}: refused ({str(error)[:40]})"] += 1


def good(server: Server, number: int, jobs: dict[int, tuple[Client, dict]], refused: Counter) -> None:
    """Run a client that uploads and submits until the server accepts its job."""
    client = Client(server.address)
    while number not in jobs:
        try:
            source = client.upload(CLIP)
            jobs[number] = client, client.submit(source, Request(seed=number, seconds=1.0))
        except (UnsilentError, OSError) as error:  # busy, or just killed
            refused[type(error).__name__] += 1
            time.sleep(1)


def load(clients: int, bad_of_each: int) -> bool:
    """Run all clients at once and print the outcome. Returns whether no job was lost or served to another client."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "served", "--max-mb", "5")
        server.wait_until_warm()
        jobs: dict[int, tuple[Client, dict]] = {}
        seen, refused = Counter(), Counter()
        threads = [threading.Thread(target=good, args=(server, number, jobs, refused)) for number in range(clients)]
        kinds = ("slow", "vanishes", "too large", "no media", "hostile name")
        threads += [threading.Thread(target=bad, args=(server, kind, number, seen)) for kind in kinds for number in range(bad_of_each)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads[:clients]:
            thread.join()
        accepted = time.perf_counter() - began
        done, peaks, killed_at, stated = {}, [server.metric("unsilent_peak_memory_bytes")], None, []
        while len(done) < clients:
            for number, (client, job) in jobs.items():
                if number not in done:
                    now = client.job(job["id"])
                    if now["state"] == "queued":
                        stated.append((number, time.time(), now["wait_seconds"]))
                    if now["state"] in ("done", "failed", "stopped"):
                        done[number] = now
            if killed_at is None and len(done) >= clients // 3:
                peaks.append(server.metric("unsilent_peak_memory_bytes"))
                killed_at = time.time()
                server.kill()
                server.start()
            time.sleep(1)
        spent = time.perf_counter() - began
        peaks.append(server.metric("unsilent_peak_memory_bytes"))
        own = sum(job["state"] == "done" and job["recipe"]["seed"] == number for number, job in done.items())
        foreign = 0
        for number, (client, _) in jobs.items():
            with suppress(UnsilentError):
                client.job(jobs[(number + 1) % clients][1]["id"])
                foreign += 1
        for thread in threads:
            thread.join()
        print(
            f"{clients} clients, {len(kinds) * bad_of_each} misbehaving ones: all accepted in {accepted:.1f} s, all done in {spent:.1f} s"
        )
        print(f"accepted {len(jobs)}, done and correct {own}, lost {clients - own}, served to another client {foreign}")
        print(f"retries: {dict(refused)}")
        at_once = [(number, job["created"], job["wait_seconds"]) for number, (_, job) in jobs.items() if job["wait_seconds"] is not None]
        for when, those in (("at acceptance", at_once), ("while they waited", stated)):
            waits = [(wait, done[number]["started"] - at) for number, at, wait in those
                     if (at < killed_at) == (done[number]["started"] < killed_at)]  # fmt: skip
            ratios = sorted(wait / real for wait, real in waits if real > MEANINGFUL_SECONDS)
            low, middle, high = (ratios[round(share * (len(ratios) - 1))] for share in (0.1, 0.5, 0.9))
            real = statistics.median(real for _, real in waits)
            print(
                f"wait estimated {when}, {len(ratios)} times: {middle:.2f} of the actual one ({low:.2f} to {high:.2f}); median {real:.1f} s"
            )
        print(f"peak memory {max(peaks) / 1e6:.0f} MB")
        for kind, n in sorted(seen.items()):
            print(f"  {kind}: {n}")
        server.kill()
        return own == clients and not foreign


def main() -> int:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--bad", type=int, default=4, help="misbehaving clients of each kind")
    parser.add_argument("--runs", type=int, default=3, help="runs of the comparison with the command; 0 skips it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "served")
        server.kill()
        starts, worked = [], []
        for _ in range(3):
            starts.append(server.start())
            worked.append(server.cpu_seconds())
            server.kill()
    print(f"start to page: {statistics.median(starts):.2f} s (of {', '.join(f'{one:.2f}' for one in starts)}),", end=" ")
    print(f"{statistics.median(worked):.2f} s of CPU time", flush=True)
    if arguments.runs:
        cost(arguments.runs)
    return 0 if load(arguments.clients, arguments.bad) else 1


if __name__ == "__main__":
    sys.exit(main())
