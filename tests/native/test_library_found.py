"""How Python finds the native library, its devices and drivers, and what it says without them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxslim_rx as rx
from onnxslim_rx import runtime
from onnxslim_rx.cli import main
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load
from onnxslim_rx.runtime import Profiler, Runner, native
from onnxslim_rx.runtime.native import opencl, profile, registration
from onnxslim_rx.runtime.native import shared_object as loader
from tests.native.fakes import CARD, POCL, FakeHandle, install

DOMAIN = "ai.onnxslim.rx"


def model(*ops: tuple[str, str], imports: tuple[str, ...] = ("",)) -> onnx.ModelProto:
    """A chain of nodes (operator, domain) from `x` to `y`."""
    names = ["x", *(f"v{i}" for i in range(1, len(ops))), "y"]
    nodes = [
        helper.make_node(op, [names[i]], [names[i + 1]], domain=domain)
        for i, (op, domain) in enumerate(ops)
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid(one, 1 if one else 17) for one in imports]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


STOCK = model(("Relu", ""), ("Abs", ""))
OURS = model(("Relu", ""), ("QuantGather", DOMAIN), imports=("", DOMAIN))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeHandle:
    handle = FakeHandle()
    install(monkeypatch, handle)
    monkeypatch.setattr(runtime, "library_path", lambda: Path("/lib/fake.so"))
    for name in ("ONNXSLIM_RX_DEVICE", "ONNXSLIM_RX_OPENCL"):
        monkeypatch.delenv(name, raising=False)
    return handle


@pytest.fixture
def none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "library_path", lambda: None)
    monkeypatch.setattr(runtime, "library_path", lambda: None)


def test_an_installation_without_the_library_says_what_to_do(none, tmp_path, capsys) -> None:
    with pytest.raises(InputError, match=r"no native library.*install one \(such as g\+\+\)"):
        native.library()
    survey = runtime.survey()
    assert [device.spec for device in survey.devices] == ["cpu"]
    assert "no native library" in survey.why
    onnx.save(STOCK, tmp_path / "m.onnx")
    rx.InferenceSession(tmp_path / "m.onnx")  # which needs none
    with pytest.raises(InputError, match="no native library"):
        Runner(OURS.SerializeToString())
    assert main(["devices"]) == 0
    out = capsys.readouterr().out
    assert "no native library" in out
    assert "self-test" in out


def test_a_library_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match="version 2 of its interface; expected 1"):
        native.Library(FakeHandle(abi=2), Path("lib.so"))


def test_what_is_no_library_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "lib.so").write_bytes(b"no ELF")
    monkeypatch.setattr(loader, "library_path", lambda: tmp_path / "lib.so")
    with pytest.raises(InputError, match="cannot be loaded"):
        native.library()


def test_devices_are_listed_with_what_is_known_of_them(fake) -> None:
    processor, pocl, card = rx.devices()
    assert (processor.spec, processor.kind) == ("cpu", "cpu")
    assert (pocl.spec, pocl.kind, pocl.driver) == ("opencl:0:0", "cpu", "3.0")
    assert pocl.platform == "Portable Computing Language"
    assert (card.spec, card.card, card.architecture) == ("opencl:1:0", "RX 580", "gfx803")
    assert (card.units, card.memory, card.local_memory) == (36, 8 << 30, 32768)
    assert card.fp16
    assert card.tuned == ("gemm", "conv")
    assert card.runtime == "OpenCL: AMD Accelerated Parallel Processing 3240.6"
    assert runtime.cards() == {"Ellesmere": "RX 580", "opencl:1:0": "RX 580"}


def test_the_verb_shows_devices_and_their_self_tests(fake, capsys) -> None:
    assert main(["devices"]) == 0
    out = capsys.readouterr().out
    assert "opencl:1:0  RX 580 (gfx803, Ellesmere)  gpu" in out
    assert out.count("ok, 0.5 s") == 3
    assert ("selftest", "opencl:1:0") in fake.asked

    assert main(["devices", "--json", "-", "--no-selftest"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["spec"] for row in table["devices"]] == ["cpu", "opencl:0:0", "opencl:1:0"]
    assert table["devices"][2]["tuned"] == ["gemm", "conv"]
    assert table["devices"][0]["selftest"] is None
    assert table["tried"] == [{"library": "libOpenCL.so.1", "found": True}]

    fake.broken = True
    assert main(["devices"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "opencl:0:0: gemm: NaN" in out


def test_without_opencl_the_verb_says_what_was_tried(fake, capsys) -> None:
    fake.found = []
    assert main(["devices"]) == 0
    out = capsys.readouterr().out
    assert "no OpenCL device was found: no platform" in out
    assert "pip install onnxslim-rx[opencl]" in out
    assert "libOpenCL.so.1" in out


@pytest.mark.parametrize("form", ["path", "bytes", "model", "with_function"])
def test_the_domain_is_seen_in_any_form(form, tmp_path) -> None:
    for proto, wanted in ((OURS, True), (STOCK, False)):
        found = onnx.ModelProto()
        found.CopyFrom(proto)
        if form == "with_function":
            node = helper.make_node("QuantGather", ["a"], ["b"], domain=DOMAIN)
            opsets = [helper.make_opsetid("", 17)]
            opsets += [helper.make_opsetid(DOMAIN, 1)] if wanted else []
            found.CopyFrom(STOCK)
            found.functions.append(helper.make_function("f", "f", ["a"], ["b"], [node], opsets))
        path = tmp_path / "m.onnx"
        path.write_bytes(found.SerializeToString())
        given = {"path": path, "bytes": path.read_bytes(), "model": load(found)}
        assert native.uses_domain(given.get(form, path)) is wanted


@pytest.mark.parametrize("version", [2, 300])
@pytest.mark.parametrize("form", ["path", "bytes", "model"])
def test_newer_operators_are_refused(form, version, tmp_path) -> None:
    found = onnx.ModelProto()
    found.CopyFrom(OURS)
    for one in found.opset_import:
        if one.domain == DOMAIN:
            one.version = version
    path = tmp_path / "m.onnx"
    path.write_bytes(found.SerializeToString())
    given = {"path": path, "bytes": path.read_bytes(), "model": load(found)}
    with pytest.raises(InputError, match=f"version {version} .*expected at most 1"):
        native.uses_domain(given[form])


def test_what_is_no_model_uses_no_domain(tmp_path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no model at all")
    content = OURS.SerializeToString()
    for given in (tmp_path / "no", tmp_path, tmp_path / "empty", tmp_path / "text", b"", b"\xff"):
        assert not native.uses_domain(given)
    for end in range(0, len(content), 7):  # truncated anywhere
        native.uses_domain(content[:end])


def test_weights_are_not_read_to_see_the_domain(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    proto = onnx.ModelProto()
    proto.CopyFrom(OURS)
    weight = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[1])
    weight.raw_data = bytes(1 << 26)
    path.write_bytes(proto.SerializeToString())
    before = resident()
    assert native.uses_domain(path)
    assert resident() - before < 1 << 24


def resident() -> int:
    """Bytes of this process in memory, mapped files included."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Options:
    """onnxruntime's SessionOptions, as far as they are used."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.libraries: list[str] = []

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        if key not in self.entries:
            raise RuntimeError(f"no {key}")
        return self.entries[key]

    def register_custom_ops_library(self, path: str) -> None:
        self.libraries.append(path)


def test_a_device_is_told_to_the_session_once(fake, monkeypatch) -> None:
    monkeypatch.setattr(registration, "opencl_libraries", lambda: "/pocl.so")
    options = Options()
    native.register(options, "opencl:1:0")
    native.register(options, "opencl:1:0")
    assert options.libraries == ["/lib/fake.so"]
    assert options.entries[f"{DOMAIN}.device"] == "opencl:1:0"
    assert options.entries[f"{DOMAIN}.opencl"] == "/pocl.so"
    with pytest.raises(InputError, match="belong to the device 'opencl:1:0', not to 'cpu'"):
        native.register(options, "cpu")


def test_auto_leaves_the_choice_to_the_environment(fake, monkeypatch) -> None:
    monkeypatch.setattr(registration, "opencl_libraries", lambda: "/pocl.so")
    options = Options()
    native.register(options, "auto")
    # no driver for processors is loaded for nothing
    assert options.entries == {f"{DOMAIN}.registered": "auto"}
    monkeypatch.setenv("ONNXSLIM_RX_DEVICE", "opencl")
    options = Options()
    native.register(options)
    assert options.entries[f"{DOMAIN}.opencl"] == "/pocl.so"
    assert f"{DOMAIN}.device" not in options.entries


@pytest.mark.parametrize("device", ["tpu", "opencl:1", "opencl:a:b", "", "CPU", "cpu\n"])
def test_a_device_that_is_none_is_refused(device) -> None:
    with pytest.raises(InputError, match="expected auto, cpu, opencl or opencl:P:D"):
        native.check_spec(device)


def test_opencl_that_is_not_there_is_an_error(fake) -> None:
    with pytest.raises(InputError, match=r"no device opencl:2:0.*opencl:1:0 \(Ellesmere\)"):
        native.register(Options(), "opencl:2:0")
    fake.found = []
    message = r"no OpenCL device \(no platform\): tried libOpenCL.so.1.*onnxslim-rx\[opencl\]"
    with pytest.raises(InputError, match=message):
        native.register(Options(), "opencl")


def test_an_old_onnxruntime_is_refused(fake, monkeypatch) -> None:
    monkeypatch.setattr(registration, "version", lambda: (1, 16, 3))
    with pytest.raises(InputError, match=r"need onnxruntime 1\.17; 1\.16\.3 is installed"):
        native.register(Options())


def test_opencl_with_nothing_to_do_is_an_error(fake, tmp_path) -> None:
    onnx.save(STOCK, tmp_path / "m.onnx")
    message = r"nothing of this model would run on opencl: .*1 Relu, 1 Abs would run on the proc"
    with pytest.raises(InputError, match=message):
        rx.InferenceSession(tmp_path / "m.onnx", device="opencl")
    session = rx.InferenceSession(tmp_path / "m.onnx", device="cpu")
    assert session.run(None, {"x": np.array([[-1, 0, 2]], np.float32)})[0].tolist() == [[0, 0, 2]]
    with pytest.raises(InputError, match=r"no model has an operator of ai\.onnxslim\.rx"):
        rx.bench([STOCK], device="opencl")


def test_drivers_of_pip_are_found_without_importing_them(monkeypatch) -> None:
    monkeypatch.setenv("ONNXSLIM_RX_OPENCL", "/a.so:/b.so")
    monkeypatch.setattr(opencl, "_installed", lambda: ("/c.so",))
    assert native.opencl_libraries() == "/a.so:/b.so:/c.so"
    monkeypatch.undo()
    pytest.importorskip("pocl_binary_distribution")
    (found,) = opencl._installed()
    assert Path(found).is_file()
    assert Path(found).name.startswith("libpocl")


def test_a_profile_counts_while_it_is_entered(fake) -> None:
    row = {
        "family": "gemm", "kernel": "gemm", "device": "Ellesmere", "launches": 3, "seconds": 0.002,
        "host_seconds": 0.0001, "bytes": 1000, "flops": 6_175_000_000,
    }  # fmt: skip
    fake.kernels = [{**row, "kernel": "reduce", "seconds": 0.001}, row]
    with Profiler({"Ellesmere": "RX 580"}) as profiler:
        with pytest.raises(InputError, match="being taken already"), Profiler():
            pass
        assert len(profiler.read().kernels) == 2
    fake.kernels = []
    found = profiler.read()
    assert [one.kernel for one in found.kernels] == ["gemm", "reduce"]  # the dearest first
    # 6.175 GFLOP take the card 1 ms at best
    assert found.kernels[0].roofline == pytest.approx(0.5)
    assert found.seconds == pytest.approx(0.003)
    assert found.transfers.down_bytes == 20
    assert found.to_dict()["transfers"]["up_seconds"] == 0.1
    assert fake.asked[-2:] == [("profile", 1), ("profile", 0)]
    with Profiler() as profiler:
        pass
    assert profiler.read().kernels == ()


def test_the_roofline_is_that_of_sums_or_of_memory() -> None:
    assert profile.roofline_seconds("RX 580", 0, 256e9) == pytest.approx(1.0)
    assert profile.roofline_seconds("RX 580", 6.175e12, 1) == pytest.approx(1.0)
    assert profile.roofline_seconds("a card", 1, 1) is None
    assert {CARD["card"]} <= set(profile._CARDS)
    assert POCL["card"] == ""
