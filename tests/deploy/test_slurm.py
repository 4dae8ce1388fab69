"""SLURM: job scripts; and, slowly, a real one on loopback that takes jobs away."""

import random
import threading
import time
from collections.abc import Iterator

import jax
import pytest

import kythera as ky
from kythera.runs.executors import clusters

from . import slurm


def lines(tmp_path, **settings) -> list[str]:
    given = {"jobs": 4, "folder": str(tmp_path), **settings}
    return clusters.script("slurm", given).splitlines()


def test_what_is_asked_for(tmp_path):
    found = lines(
        tmp_path,
        cores=2,
        memory="4GiB",
        walltime="02:00:00",
        queue="spot",
        account="mode",
        extra="[--gres=gpu:1, --constraint=avx2]",
    )
    for line in (
        "#SBATCH -J kythera",
        f"#SBATCH -o {tmp_path}/kythera-%J.out",
        "#SBATCH -p spot",
        "#SBATCH -A mode",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --mem=4G",
        "#SBATCH -t 02:00:00",
        "#SBATCH --requeue",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --constraint=avx2",
        "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1",
    ):
        assert line in found


def test_the_worker_has_no_nanny_and_one_evaluation(tmp_path):
    words = lines(tmp_path, cores=2, interface="ib0", port=8786)[-1].split()
    options = dict(zip(words, words[1:]))  # the last of two counts, as for the worker
    assert "--no-nanny" in words
    assert "--nworkers" not in words
    assert "tls://SCHEDULER:8786" in words
    assert options["--nthreads"] == "1"
    assert options["--memory-limit"] == "0"
    assert options["--death-timeout"] == "120"
    assert options["--interface"] == "ib0"
    assert options["--local-directory"] == "${TMPDIR:-/tmp}"


def test_the_site_decides_where_the_user_does_not(tmp_path):
    found = "\n".join(lines(tmp_path))
    assert "#SBATCH -p" not in found
    assert "#SBATCH -A" not in found


@pytest.fixture(scope="module")
def system() -> Iterator[slurm.Slurm]:
    if reason := slurm.missing():
        pytest.skip(reason)
    with slurm.running() as found:
        yield found
