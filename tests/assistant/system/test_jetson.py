"""What the doctor reads on a Jetson and beside a GPU, from files as those machines have them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from machines import facts
from rich.console import Console

from egolive.assistant.diagnostics.doctor import _tables, diagnose, engine_needs
from egolive.assistant.system import jetson

RELEASE = (
    "# R{} (release), REVISION: {}, GCID: 43000000, BOARD: generic, EABI: aarch64, DATE: Mon Jun  1 2026"
    "\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)
STATUS = """Package: adduser
Status: install ok installed
Version: 3.134

Package: nvidia-jetpack-runtime
Status: install ok installed
Version: 9.9-b1

Package: nvidia-jetpack
Status: {state}
Priority: standard
Depends: nvidia-jetpack-runtime (= 7.2-b50), nvidia-jetpack-dev
Version: 7.2.2-b50
Description: NVIDIA Jetpack Meta Package

Package: libnvinfer10
Status: install ok installed
Architecture: arm64
Version: 10.16.2.10-1+cuda13.2
"""
INSTALLED = "install ok installed"
GPU = {"device": "cuda:0", "name": "Orin", "total": 30e9, "free": 20e9, "capability": "8.7"}
SEEN = {"python": "10.16.2.10", "system": "10.16.2.10"}


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_the_package_names_jetpack_and_the_release_file_jetson_linux(tmp_path: Path) -> None:
    release = written(tmp_path, "nv_tegra_release", RELEASE.format(39, "2.1"))
    status = written(tmp_path, "status", STATUS.format(state=INSTALLED))
    assert jetson.jetson(release, status) == {"l4t": "39.2.1", "jetpack": "7.2.2"}
    assert jetson.tensorrt_version(status)["system"] == "10.16.2.10"


@pytest.mark.parametrize(
    ("major", "revision", "jetpack"),
    [
        (39, "2.0", "7.2"),
        (38, "4.0", "7.1"),
        (38, "2.1", "7.0"),
        (36, "4.7", "6"),
        (35, "5.0", "5"),
        (32, "7.1", "4"),
        (40, "1.0", ""),
        (39, "20.0", ""),
    ],
)
def test_without_the_package_jetson_linux_tells_jetpack(
    tmp_path: Path, major: int, revision: str, jetpack: str
) -> None:
    """In a container, say, or where it was removed again."""
    release = written(tmp_path, "nv_tegra_release", RELEASE.format(major, revision))
    status = written(tmp_path, "status", STATUS.format(state="deinstall ok config-files"))
    found = jetson.jetson(release, status)
    assert found == {"l4t": f"{major}.{revision}", "jetpack": jetpack}
    assert jetson.jetson(release, tmp_path / "none") == found


def test_other_machines_are_no_jetson(tmp_path: Path) -> None:
    assert jetson.jetson(tmp_path / "none", tmp_path / "none") is None
    assert jetson.jetson(written(tmp_path, "odd", "something else\n"), tmp_path / "none") is None


def test_cudas_version_is_what_its_toolkit_says(tmp_path: Path) -> None:
    text = '{"cuda": {"name": "CUDA SDK", "version": "13.2.1"}, "cuda_cudart": {"version": "13.2.75"}}'
    assert jetson.cuda_version(written(tmp_path, "version.json", text)) == "13.2.1"
    for damaged in ("", "{", "[]", '{"cuda": 13}'):
        assert jetson.cuda_version(written(tmp_path, "version.json", damaged)) == ""


def test_onnx_runtime_tells_its_providers_here() -> None:
    assert "CPU" in jetson.providers()


def test_a_jetson_that_has_everything_gets_no_advice() -> None:
    here = facts(
        jetson={"l4t": "39.2.0", "jetpack": "7.2"},
        tensorrt=SEEN,
        providers=["Tensorrt", "CUDA", "CPU"],
        gpus=[GPU | {"kernels": ["sm_80", "sm_87", "sm_110"]}],
    )
    assert diagnose(here) == []


@pytest.mark.parametrize(
    ("changes", "what", "mend"),
    [
        (
            {"jetson": {"l4t": "36.4.7", "jetpack": "6.2.1"}},
            "JetPack 6.2.1 is not supported",
            "flash JetPack 7",
        ),
        ({"tensorrt": {"python": "", "system": "10.16.2"}}, "sees no TensorRT", "python3-libnvinfer"),
        ({"gpus": [GPU | {"kernels": ["sm_80", "sm_90"]}]}, "not built for this GPU (sm_87)", "wheel"),
        ({"providers": ["CPU"]}, "cannot use the GPU", "onnxruntime-gpu"),
    ],
    ids=["old jetpack", "no tensorrt", "wheel for others", "onnxruntime for the cpu"],
)
def test_what_a_jetson_lacks_comes_with_its_remedy(changes: dict[str, object], what: str, mend: str) -> None:
    whole: dict[str, object] = {
        "jetson": {"l4t": "39.2.0", "jetpack": "7.2"},
        "tensorrt": SEEN,
        "providers": ["CUDA", "CPU"],
        "gpus": [GPU | {"kernels": ["sm_87"]}],
    }
    (finding,) = diagnose(facts(**(whole | changes)))
    assert what in finding.what
    assert mend in finding.mend


def test_code_that_is_compiled_on_the_machine_suits_every_gpu() -> None:
    changes = {"jetson": {"l4t": "39.2.0", "jetpack": "7.2"}, "tensorrt": SEEN}
    assert diagnose(facts(**changes, gpus=[GPU | {"kernels": ["sm_80", "compute_80"]}])) == []


def shown(here: dict[str, object]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for table in _tables(here, engine_needs(), []):
        console.print(table)
    return console.export_text()


def test_a_jetsons_memory_is_counted_once() -> None:
    whole = facts(
        jetson={"l4t": "39.2.0", "jetpack": "7.2"},
        tensorrt={"python": "", "system": "10.16.2"},
        cuda="13.2.1",
        providers=["CUDA", "CPU"],
        gpus=[GPU],
        memory={"total": 16_000_000_000, "available": 9_000_000_000},
    )
    here = whole["machine"]
    assert isinstance(here, dict)
    here |= {
        "platform": "Linux",
        "model": "Jetson Orin NX",
        "processor": {"name": "A78", "cores": 8, "features": []},
    }
    text = shown(whole | {"commit": ""})
    for expected in ("7.2, Jetson Linux 39.2.0", "13.2.1", "10.16.2, not seen by this Python", "CUDA, CPU"):
        assert expected in text
    assert "this Jetson" in text
    assert "this CPU" not in text
    assert "this cuda:0" not in text
