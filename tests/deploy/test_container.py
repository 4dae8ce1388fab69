"""The container: built and run for real, as command, scheduler, worker and page."""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

import kythera as ky
from kythera import testing
from kythera.runs import executors
from kythera.runs.store import Store
from kythera.runs.study import Study

from ..laws.test_resume import same
from .support import require

ROOT = Path(__file__).parents[2]
PROGRAMS = ("podman", "runc", "debootstrap")
INSTALL = "apt-get install --no-install-recommends podman runc debootstrap"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
TOKEN = "a-token-that-is-long-enough"

pytestmark = pytest.mark.slow


class Podman:
    """Images and containers in a folder of their own.

    Args:
        folder: where they are.
        driver: of the storage.
    """

    def __init__(self, folder: Path, driver: str):
        self.folder = folder
        self.driver = driver

    def __call__(self, *arguments: str, seconds: float = 300) -> str:
        """The output of a command."""
        command = ["podman", "--root", str(self.folder / "root"), "--runroot"]
        command += [str(self.folder / "run"), "--storage-driver", self.driver]
        command += ["--runtime", "runc", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *arguments: str, network: str = "none") -> str:
        """Run a container to its end; with `--detach` leave it running."""
        return self("run", *LIMITS, "--network", network, *arguments)

    @contextlib.contextmanager
    def running(self, name: str, *arguments: str) -> Iterator[None]:
        """A container beside this process, on this machine's network."""
        self.run("--detach", "--name", name, *arguments, network="host")
        try:
            yield
        finally:
            self("stop", "--time", "10", name)
            self("rm", "--force", name)


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    require(PROGRAMS, INSTALL)
    folder = Path(tempfile.mkdtemp(prefix="podman-"))
    try:
        try:
            found = Podman(folder / "overlay", "overlay")
            found("info")
        except AssertionError:  # the kernel has no layers: copies do
            found = Podman(folder / "vfs", "vfs")
        yield found
        found("rm", "--all", "--force")
        found("rmi", "--all", "--force")
    finally:
        subprocess.run(
            ["umount", "--recursive", "--quiet", folder / "overlay/root/overlay"]
        )
        shutil.rmtree(folder)


def base(podman: Podman, folder: Path) -> str:
    """A small Debian with Python, as an image: no registry is asked."""
    system, packages = folder / "base", "python3,python3-venv,ca-certificates"
    subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={packages}",
            "bookworm",
            system,
        ],
        check=True,
        capture_output=True,
        timeout=900,
    )
    archive = folder / "base.tar"
    without = [f"--exclude=./{name}" for name in ("dev", "proc", "sys")]
    command = ["tar", "-C", system, "-cf", archive, *without, "."]
    subprocess.run(command, check=True, timeout=300)
    podman("import", str(archive), "base:test")
    shutil.rmtree(system)
    archive.unlink()
    return "localhost/base:test"


def pip_settings() -> str:
    """What pip is told on this machine, for a build that sees only the network."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    ).stdout
    lines = ["[global]", "timeout = 180", "cert = /run/authorities.crt"]
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        name, value = name.rpartition(".")[2], value.strip("'\"")
        if name in ("index-url", "extra-index-url", "trusted-host"):
            reachable = [v for v in value.split() if not v.startswith("file:")]
            lines += [f"{name} = {' '.join(reachable)}"] if reachable else []
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def image(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("image")
    (folder / "pip.conf").write_text(pip_settings())
    podman(
        "build", "--isolation", "chroot", "--network", "host",
        "--ulimit", "nofile=20000:20000",
        "--file", str(ROOT / "deploy" / "Containerfile"),
        "--build-arg", f"BASE={base(podman, folder)}",
        "--secret", f"id=pip,src={folder / 'pip.conf'}",
        "--volume", f"{AUTHORITIES}:/run/authorities.crt:ro",
        "--tag", "kythera:test", str(ROOT),
        seconds=1800,
    )  # fmt: skip
    return "localhost/kythera:test"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_it_is_kythera_without_rights_and_without_secrets(podman, image):
    assert podman.run("--rm", image, "--version").strip() == f"kythera {ky.__version__}"
    shell = ("--rm", "--entrypoint", "sh", image, "-c")
    assert podman.run(*shell, "id -u").strip() == "10001"
    assert podman.run(
        *shell, "cat /etc/pip.conf 2>/dev/null; ls /opt/kythera"
    ).split() == ["venv"]
    volume = ("--rm", "--volume", "studies:/files", "--entrypoint", "touch", image)
    podman.run(*volume, "/files/a")
    history = podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "authorities" not in history


def test_a_study_in_a_volume_goes_on(podman, image, tmp_path):
    """Begun in one container, gone on with in another, and the same as without them."""
    tmp_path.chmod(0o777)
    command = ("--rm", "--volume", f"{tmp_path}:/files", image, "optimise", "telescope",
               "--optimiser", "random_search", "--store", "/files/runs.db",
               "--name", "first", "--resume", "--trials")  # fmt: skip
    podman.run(*command, "4")
    podman.run(*command, "8")
    store = Store(tmp_path / "runs.db", user="kythera")
    program = Path(sys.executable).with_name("kythera")
    subprocess.run(
        [program, "optimise", "telescope", "--optimiser", "random_search", "--trials", "8",
         "--store", tmp_path / "here.db", "--name", "first", "--user", "kythera"],
        check=True, capture_output=True,
    )  # fmt: skip
    here = Store(tmp_path / "here.db", user="kythera")
    same(Study.open(store, "first").trials(), Study.open(here, "first").trials())
    for one in (store, here):
        one.close()


@pytest.mark.filterwarnings("ignore:Mismatched versions")  # of Python's last digit
def test_scheduler_and_worker(podman, image):
    def search(**options) -> ky.Solution:
        return ky.optimise(
            testing.noisy_sphere(),
            ky.Evolution(population=4),
            key=jax.random.key(5),
            max_trials=12,
            report_events=16,
            **options,
        )

    port = free_port()
    dask = ("--entrypoint", "dask", image)
    listening = (
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-dashboard",
    )
    working = ("worker", f"tcp://127.0.0.1:{port}", "--no-nanny", "--no-dashboard",
               "--nthreads", "1", "--memory-limit", "0")  # fmt: skip
    with (
        podman.running("scheduler", *dask, *listening),
        podman.running("worker", *dask, *working),
        executors.make(f"dask:address=tcp://127.0.0.1:{port}") as executor,
    ):
        same(search(map=executor).trials, search().trials)


def test_the_page_asks_for_its_token(podman, image, tmp_path):
    tmp_path.chmod(0o777)
    Store(tmp_path / "runs.db", user="kythera").close()
    for file in tmp_path.iterdir():
        file.chmod(0o777)
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    page = podman.running(
        "page", "--volume", f"{tmp_path}:/files", "--env", f"KYTHERA_TOKEN={TOKEN}",
        image, "serve", "--store", "/files/runs.db", "--host", "0.0.0.0",
        "--port", str(port),
    )  # fmt: skip
    with page:
        assert until_answered(address) == 401
        asked = urllib.request.Request(
            address, headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert answer.status == 200
            assert b"kythera" in answer.read()


def until_answered(address: str, seconds: float = 60) -> int:
    """The status of the first answer."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)
