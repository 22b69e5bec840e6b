import fcntl
import json
import shutil
import threading

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.training import probe
from rlhf.training.artifacts import RunError, RunFolder, Stopped, read_json
from rlhf.training.config import ImportModelConfig
from rlhf.training.import_model import run
from tests.training.encoders import build_encoder


@pytest.fixture
def source(tiny_folder, tmp_path):
    """A model folder that a test may spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "somewhere" / "my-model")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return RunFolder(path)


def import_folder(source, folder):
    return run(ImportModelConfig("folder", str(source), measure_speed=False), folder)


def logits(model_folder):
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    with torch.no_grad():
        return model(torch.arange(5, 15)[None]).logits


def test_a_local_model_is_copied_whole(source, folder):
    result = import_folder(source, folder)

    assert result == {
        "artifact": str(folder.path / "artifact"),
        "source": "folder",
        "location": str(source),
        "name": "my-model",
        "kind": "policy",
        "parameters": sum(
            p.numel() for p in AutoModelForCausalLM.from_pretrained(source).parameters()
        ),
        "context_tokens": 1024,
        "note": "",
    }
    assert torch.equal(logits(result["artifact"]), logits(source))


def test_only_what_belongs_to_a_model_is_copied(source, folder):
    (source / "secret.env").write_text("x")
    (source / "modeling_evil.py").write_text("raise SystemExit")

    artifact = import_folder(source, folder)["artifact"]

    assert sorted(path.name for path in (folder.path / "artifact").iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "preferendum.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert artifact == str(folder.path / "artifact")


def test_a_complete_import_is_found_again_without_its_source(source, folder):
    first = import_folder(source, folder)
    shutil.rmtree(source)

    assert import_folder(source, folder) == first


def test_another_model_does_not_take_the_place_of_an_imported_one(source, folder):
    import_folder(source, folder)

    with pytest.raises(RunError, match="already holds my-model: choose another output folder"):
        run(ImportModelConfig("tiny"), folder)


def test_imports_at_the_same_time_wait_for_each_other(source, tmp_path):
    output = str(tmp_path / "shared" / "my-model")
    config = ImportModelConfig("folder", str(source), output, measure_speed=False)
    results = []

    def import_once(name):
        (tmp_path / name).mkdir()
        results.append(run(config, RunFolder(tmp_path / name)))

    threads = [threading.Thread(target=import_once, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    copied = [p for p in tmp_path.glob("[abc]/events.jsonl") if "copying" in p.read_text()]
    assert results == [results[0]] * 3
    assert len(copied) == 1


def test_an_import_that_waits_can_be_stopped(source, folder):
    folder.interrupt()
    with (folder.path / ".artifact.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(Stopped):
            import_folder(source, folder)


def test_a_model_without_a_chat_template_is_given_a_plain_one(source, folder):
    (source / "chat_template.jinja").unlink()

    result = import_folder(source, folder)

    tokenizer = AutoTokenizer.from_pretrained(result["artifact"])
    messages = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Yes?"},
    ]
    assert "it had no chat template" in result["note"]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "User: Why?\n\nAssistant: So.<|im_end|>\n\nUser: Yes?\n\nAssistant: "
    )


def test_a_model_without_a_padding_token_pads_with_its_end_token(source, folder):
    settings = read_json(source / "tokenizer_config.json")
    del settings["pad_token"]
    (source / "tokenizer_config.json").write_text(json.dumps(settings))

    artifact = import_folder(source, folder)["artifact"]

    assert AutoTokenizer.from_pretrained(artifact).pad_token == "<|im_end|>"


def spoil_config(source):
    (source / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))


def quantise(source):
    settings = read_json(source / "config.json")
    settings["quantization_config"] = {"quant_method": "bitsandbytes"}
    (source / "config.json").write_text(json.dumps(settings))


def no_scorer(source):
    (source / "config.json").write_text(json.dumps({"model_type": "vit"}))


def be_an_encoder_without_weights(source):
    shutil.rmtree(source)
    build_encoder(source)
    drop_a_weight(source)


def drop_a_weight(source):
    settings = read_json(source / "config.json")
    settings["num_hidden_layers"] = 3
    (source / "config.json").write_text(json.dumps(settings))


def cut_weights(source):
    content = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(content[: len(content) // 2])


def drop_end_token(source):
    settings = read_json(source / "tokenizer_config.json")
    del settings["eos_token"]
    (source / "tokenizer_config.json").write_text(json.dumps(settings))


def make_adapter(source):
    (source / "config.json").rename(source / "adapter_config.json")


def pickle_weights(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def make_two_ggufs(source):
    (source / "model.safetensors").rename(source / "a.gguf")
    (source / "b.gguf").touch()


def make_broken_gguf(source):
    (source / "model.safetensors").rename(source / "a.gguf")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda source: shutil.rmtree(source), "there is no model folder .*/my-model"),
        (lambda source: (source / "config.json").unlink(), "my-model has no config.json"),
        (
            lambda source: (source / "model.safetensors").unlink(),
            "has no weights: no .*safetensors",
        ),
        (lambda source: (source / "tokenizer.json").unlink(), "has no usable tokenizer"),
        (pickle_weights, r"weights as a pickle \(pytorch_model.bin\)"),
        (spoil_config, "transformers does not know the model"),
        (no_scorer, "is a vit model, which can neither write nor score text"),
        (be_an_encoder_without_weights, r"lack bert\.encoder\.layer\.2"),
        (quantise, "is quantised and cannot be trained"),
        (drop_a_weight, "lack model.layers.2"),
        (cut_weights, "the weights in .* cannot be loaded"),
        (drop_end_token, "has no end token"),
        (make_adapter, r"holds an adapter \(adapter_config\.json\)"),
        (make_two_ggufs, r"several GGUF files \(a.gguf, b.gguf\)"),
        (make_broken_gguf, "a.gguf cannot be read as a GGUF model"),
    ],
)
def test_a_folder_that_is_no_usable_model_is_refused_and_leaves_nothing(
    source, folder, spoil, message
):
    spoil(source)

    with pytest.raises(RunError, match=message):
        import_folder(source, folder)

    assert [p.name for p in folder.path.iterdir() if "artifact" in p.name] == [".artifact.lock"]


def test_a_file_that_is_no_model_is_refused(folder, tmp_path):
    (tmp_path / "notes.txt").touch()

    with pytest.raises(RunError, match=r"notes\.txt is neither a model folder nor a \.gguf file"):
        import_folder(tmp_path / "notes.txt", folder)


def test_the_hub_offline_is_one_sentence(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(RunError, match="the hub could not be reached for some/model: "):
        run(ImportModelConfig("hub", "some/model"), folder)

    assert [p.name for p in folder.path.iterdir() if "artifact" in p.name] == [".artifact.lock"]


def test_a_hub_id_that_cannot_be_one_is_refused(folder):
    with pytest.raises(RunError, match="'a/b/c' is not a hub id such as"):
        run(ImportModelConfig("hub", "a/b/c"), folder)


def test_the_tiny_model_is_made_on_the_spot(folder):
    result = run(ImportModelConfig("tiny"), folder)

    assert (result["name"], result["context_tokens"]) == ("Tiny", 1024)
    assert result["probe"]["parameters"] == result["parameters"]
    assert result["parameters"] == sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(result["artifact"]).parameters()
    )


def test_an_import_that_is_killed_while_it_measures_has_succeeded_all_the_same(
    source, folder, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt  # as SIGKILL, nothing here catches it

    monkeypatch.setattr(probe, "measure", killed)

    with pytest.raises(KeyboardInterrupt):
        run(ImportModelConfig("folder", str(source)), folder)

    result = read_json(folder.path / "result.json")
    assert (result["status"], result["name"]) == ("succeeded", "my-model")


def test_a_model_that_is_too_large_to_measure_here_is_imported_all_the_same(
    source, folder, monkeypatch
):
    nothing_free = psutil.virtual_memory()._replace(available=0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: nothing_free)

    result = run(ImportModelConfig("folder", str(source)), folder)

    assert (result["name"], result["probe"]) == ("my-model", {})


@pytest.mark.slow
def test_the_embedded_model_is_converted_and_writes_sense(folder):
    result = run(ImportModelConfig("embedded", measure_speed=False), folder)

    tokenizer = AutoTokenizer.from_pretrained(result["artifact"])
    model = AutoModelForCausalLM.from_pretrained(result["artifact"])
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert result["parameters"] == 134_515_008
    assert "dequantised from Q4_1" in result["note"]
    assert "Paris" in tokenizer.decode(answer[0])
