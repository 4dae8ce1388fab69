"""Settings of clusters: what is refused, and with which words."""

import pytest

from kythera import errors
from kythera.runs.executors import clusters

WRONG = [
    ("slurm", {}, r"'slurm' needs a value for 'jobs'\. Write slurm:jobs=4"),
    ("kubernetes", {"workers": 2}, r"needs a value for 'image'"),
    ("slurm", {"jobs": "four"}, r"'jobs' of 'slurm' must be a whole number.*'four'"),
    ("slurm", {"jobs": 0}, r"'jobs' of 'slurm' must be at least 1, but is 0"),
    ("slurm", {"jobs": 1, "cores": "0"}, r"'cores' of 'slurm' must be at least 1"),
    ("slurm", {"jobs": 1, "jbos": 1}, r"no setting 'jbos'\. Did you mean 'jobs'"),
    ("slurm", {"jobs": 1, "walltime": "90"}, r"hours:minutes:seconds.*'90'"),
    ("slurm", {"jobs": 1, "walltime": "00:00:00"}, r"hours:minutes:seconds"),
    ("slurm", {"jobs": 1, "memory": "4"}, r"number with a unit.*'4'.*memory=4GB"),
    ("slurm", {"jobs": 1, "memory": "4 potatoes"}, r"number with a unit"),
    ("slurm", {"jobs": 1, "port": 70000}, r"from 0 to 65535, but is 70000"),
    ("slurm", {"jobs": 1, "tls": "perhaps"}, r"'tls' of 'slurm' must be true or false"),
    ("slurm", {"jobs": 1, "ca": "ca.pem"}, r"three files.*\['ca'\]"),
    ("slurm", {"jobs": 1, "queue": "a\n#SBATCH -A b"}, r"text on one line"),
    ("slurm", {"jobs": 1, "extra": ["-x", "a\nrm b"]}, r"text on one line"),
    ("slurm", {"jobs": 1, "extra": 5}, r"text on one line, but is 5"),
    ("htcondor", {"jobs": 1, "queue": "short"}, r"'htcondor' has no setting 'queue'"),
    ("kubernetes", {"workers": 1, "image": "i", "namespace": "A b"}, r"lower-case"),
    ("kubernetes", {"workers": 1, "image": "i", "spot": ["yes"]}, r"gke-spot=true"),
    ("slrum", {"jobs": 1}, r"no cluster 'slrum'\. Did you mean 'slurm'"),
]


@pytest.mark.parametrize(("kind", "settings", "words"), WRONG)
def test_refused_before_anything_is_submitted(kind, settings, words):
    with pytest.raises(errors.InputError, match=words):
        clusters.build(kind, settings)


@pytest.mark.parametrize("kind", ["slurm", "pbs", "htcondor"])
def test_text_and_values_are_the_same(kind):
    text = {"jobs": "3", "cores": "2", "tls": "false", "extra": "[a=1, b=2]"}
    values = {"jobs": 3, "cores": 2, "tls": False, "extra": ["a=1", "b=2"]}
    assert clusters.read(kind, text) == clusters.read(kind, values)
    assert clusters.read(kind, text).size == 3


@pytest.mark.parametrize(
    ("kind", "program"),
    [("slurm", "sbatch"), ("pbs", "qsub"), ("htcondor", "condor_submit")],
)
def test_a_machine_without_the_batch_system(kind, program, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.UnsupportedError, match=f"`{program}`.*dask:workers=2"):
        clusters.build(kind, {"jobs": 1})


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dask_kubernetes.operator", None)
    with pytest.raises(errors.UnsupportedError, match=r"'kythera\[kubernetes\]'"):
        clusters.build("kubernetes", {"workers": 1, "image": "i"})


def test_what_the_batch_system_says_is_handed_on(tmp_path, monkeypatch):
    program = tmp_path / "sbatch"
    program.write_text(
        "#!/bin/sh\necho 'sbatch: error: no partition sopt' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    settings = {"jobs": 2, "queue": "sopt", "interface": "lo", "folder": str(tmp_path)}
    with pytest.raises(errors.InputError, match="no partition sopt.*Mend the settings"):
        clusters.build("slurm", settings)


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(errors.InputError, match="'folder' must be one"):
        clusters.build("slurm", {"jobs": 1, "folder": str(tmp_path / "sbatch" / "x")})


def test_job_script_of_pbs(tmp_path):
    given = {
        "jobs": 2,
        "cores": 2,
        "memory": "4GiB",
        "walltime": "48:30:00",
        "queue": "long",
        "account": "atlas",
        "folder": str(tmp_path),
        "tls": False,
        "port": 8786,
        "extra": ["-W group_list=atlas"],
    }
    lines = clusters.script("pbs", given).splitlines()
    for line in (
        "#PBS -N kythera",
        "#PBS -q long",
        "#PBS -A atlas",
        "#PBS -l select=1:ncpus=2:mem=4096MB",
        "#PBS -l walltime=48:30:00",
        "#PBS -r y",
        "#PBS -W group_list=atlas",
    ):
        assert line in lines
    assert " tcp://SCHEDULER:8786 " in lines[-1]
    assert " --no-nanny " in lines[-1]
