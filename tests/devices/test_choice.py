"""How a device is chosen and what is said when it is not there, or too small."""

from types import SimpleNamespace

import pytest
import torch
from matrix.mixers import model_of
from tiny_model import save_tiny_folder, tiny_model

from hyla.caches import Cache
from hyla.checkpoints import load_model
from hyla.checkpoints.placement import Placer
from hyla.cli import main
from hyla.data.packing import TokenStore
from hyla.engine import Engine, SamplingParams
from hyla.engine.requests.options import EngineOptions
from hyla.engine.runner import Runner
from hyla.engine.speculation import Speculation
from hyla.errors import CapacityError, ConfigError
from hyla.ops import devices
from hyla.ops.devices import facts, resolve_device
from hyla.train import loop
from hyla.train.config import TrainConfig
from hyla.train.run_state import changed_environment, environment
from hyla.train.sources import packer_of

needs_no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a card")
CPU = torch.device("cpu")
NO_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 1.50 GiB is "
    "free. Of the allocated memory 138 GiB is allocated by PyTorch"
)


def no_memory(*args, **kwargs):
    raise torch.OutOfMemoryError(NO_MEMORY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@needs_no_card
@pytest.mark.parametrize("name", ["cuda", "cuda:3", "meta", "nonsense", "xpu"])
def test_a_device_that_is_not_there_is_one_clear_error(name, folder):
    for use in (lambda: resolve_device(name), lambda: load_model(folder, device=name)):
        with pytest.raises(ConfigError, match=f"device = '{name}'") as error:
            use()
        assert "\n" not in str(error.value)


@needs_no_card
@pytest.mark.parametrize("verb", ["generate", "chat", "serve", "inspect", "train", "quickstart"])
def test_every_verb_says_in_one_line_that_there_is_no_card(verb, folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file.py").write_text("x = 1\n" * 200)
    arguments = {
        "generate": (folder, "x"),
        "train": (tmp_path / "data", "--out", tmp_path / "run"),
        "quickstart": ("--out", tmp_path / "run"),
        "serve": (folder, "--port", 18_765),
    }.get(verb, (folder,))
    monkeypatch.setattr("sys.argv", ["hyla", verb, *map(str, arguments), "--device", "cuda"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert said.startswith("error: device = 'cuda'") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_step_without_memory_ends_its_requests_and_the_engine_lives_on(monkeypatch, caplog):
    engine = Engine(model_of("kda", "float32"), memory=8 << 20, pack=False)
    prompt, params = tuple(range(30)), SamplingParams(max_tokens=4, seed=1)
    (expected,) = engine.generate([prompt], params)
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "step", no_memory)
        (failed,) = engine.generate([prompt], params)
    wanted = "cpu has too little memory for a step of 30 tokens (asked for 20.00 MiB, 1.50 GiB are free); lower"
    assert failed.finish_reason == "error" and failed.error.startswith(wanted)
    assert "Traceback" not in caplog.text and wanted in caplog.text
    engine.cache.ledger.check()
    (again,) = engine.generate([prompt], params)
    assert again.token_ids == expected.token_ids


def test_loading_and_training_without_memory_say_what_to_lower(folder, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(Placer, "place", no_memory)
        with pytest.raises(CapacityError, match=r"cpu has too little memory for the weights of .*smaller dtype"):
            load_model(folder)
    store = TokenStore.from_lists([list(range(40))] * 3)
    config = TrainConfig(steps=2, batch_tokens=64, max_document_tokens=40)
    trainer = loop.Trainer(tiny_model(), packer_of(store, config), config, tmp_path)
    monkeypatch.setattr(loop.Trainer, "_losses", no_memory)
    with pytest.raises(
        CapacityError, match=r"a training step of 64 tokens \(asked for 20.00 MiB.*lower micro_batch_tokens"
    ):
        trainer.update(0)


def test_nothing_of_cuda_is_asked_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", no_memory)
    monkeypatch.setattr(torch.cuda, "_lazy_init", no_memory)
    assert resolve_device("cpu") == CPU and facts(CPU) == {} and devices.free_bytes(CPU) is None
    assert environment(CPU)["device"] == "cpu"


def test_a_card_s_bits_depend_on_its_driver_libraries_and_settings(monkeypatch):
    card = SimpleNamespace(name="A Card", major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    found = facts(torch.device("cuda:0"))
    assert found["card"] == "A Card, 9.0" and found["multiprocessors"] == 132
    assert found["cublas_workspace_config"] == ":16:8" and {"driver", "cuda", "cublas"} <= found.keys()
    here, there = {"device": "cpu", "torch": "2"}, {"device": "cuda:0", "torch": "2", **found}
    assert changed_environment(here, there) == "device: cpu -> cuda:0"
    assert changed_environment(there, here) == "device: cuda:0 -> cpu"
    assert "card: A Card, 9.0 -> Another" in changed_environment(there, there | {"card": "Another"})


def test_products_on_a_card_are_summed_in_full_precision():
    script = devices._use_full_precision.__wrapped__
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    script()
    try:
        matmul = torch.backends.cuda.matmul
        assert not matmul.allow_bf16_reduced_precision_reduction
        assert not matmul.allow_fp16_reduced_precision_reduction
        assert not matmul.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = before


def test_the_draft_model_goes_where_the_model_is_and_not_where_folders_go(folder, monkeypatch):
    asked = []

    def load(*args, **options):
        asked.append(options["device"])
        return tiny_model(seed=1)

    monkeypatch.setattr("hyla.checkpoints.load_model", load)
    options = {"memory": 8 << 20, "max_num_sequences": 2, "pack": False}
    model = tiny_model()
    engine_options = EngineOptions(**options, speculation="draft", draft_model=str(folder), device="cuda")
    cache = Cache(model.cache_specs(), num_pages=4, num_slots=2)
    Speculation(engine_options, "draft", model, cache)
    assert asked == [CPU]
