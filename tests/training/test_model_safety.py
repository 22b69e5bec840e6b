"""Hostile folders and files: each is refused with a sentence, or does nothing."""

import json
import os
import pickle
import shutil

import jinja2
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from rlhf.training.artifacts import RunError, RunFolder, read_json
from rlhf.training.config import ALLOW_PICKLES, ImportModelConfig
from rlhf.training.import_model import run
from rlhf.training.model_safety import check_template
from rlhf.training.models import load_policy
from tests.hostile import Bomb, code


@pytest.fixture
def source(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def marker(tmp_path):
    """A folder that only hostile code would make."""
    return tmp_path / "hostile-code-ran"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def import_folder(source, folder):
    return run(ImportModelConfig("folder", str(source), measure_speed=False), folder)


def refusal(source, folder):
    with pytest.raises(RunError) as error:
        import_folder(source, folder)
    assert not (folder.path / "artifact").exists()
    return str(error.value)


def edit(file, **values):
    file.write_text(json.dumps({**read_json(file), **values}))


def pickle_instead(source, content):
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))


def test_a_pickle_is_not_opened(source, folder, marker):
    pickle_instead(source, Bomb(marker))

    assert refusal(source, folder).startswith(
        f"{source} has its weights as a pickle (pytorch_model.bin), which could run any code"
    )
    assert not marker.exists()


def test_a_pickle_beside_safetensors_is_left_behind(source, folder, marker):
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))

    import_folder(source, folder)

    assert not (folder.path / "artifact" / "pytorch_model.bin").exists()
    assert not marker.exists()


def test_where_pickles_are_allowed_their_weights_are_read(source, folder, monkeypatch):
    monkeypatch.setenv(ALLOW_PICKLES, "1")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(weights, source / "pytorch_model.bin")

    result = import_folder(source, folder)

    imported = load_file(folder.path / "artifact" / "model.safetensors")
    assert result["note"] == "its weights were read from pytorch_model.bin"
    assert imported.keys() == weights.keys()
    assert all(torch.equal(imported[name], weights[name]) for name in weights)


def test_where_pickles_are_allowed_code_in_them_is_refused(source, folder, marker, monkeypatch):
    monkeypatch.setenv(ALLOW_PICKLES, "1")
    pickle_instead(source, Bomb(marker))

    assert "pytorch_model.bin does not hold weights alone" in refusal(source, folder)
    assert not marker.exists()


def test_an_adapter_with_a_pickle_is_not_opened(source, tmp_path, marker):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(marker)))

    with pytest.raises(RunError, match=r"has no adapter_model\.safetensors"):
        load_policy({"base": str(source), "adapters": [str(adapter)]})

    assert not marker.exists()


def test_code_beside_a_known_model_is_neither_copied_nor_run(source, folder, marker):
    (source / "modeling_evil.py").write_text(code(marker))
    names = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
    edit(source / "config.json", auto_map=names)
    edit(source / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "modeling_evil.T"]})

    result = import_folder(source, folder)
    load_policy({"base": result["artifact"], "adapters": []})

    assert not list((folder.path / "artifact").glob("*.py"))
    assert not marker.exists()


def test_a_model_that_needs_its_own_code_is_refused(source, folder, marker):
    (source / "modeling_evil.py").write_text(code(marker))
    names = {"AutoConfig": "modeling_evil.Config"}
    edit(source / "config.json", auto_map=names, model_type="evil")

    assert refusal(source, folder).startswith(f"transformers does not know the model in {source}: ")
    assert not marker.exists()


def test_a_template_that_reaches_for_code_is_refused(source, folder):
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (source / "chat_template.jinja").write_text(escape)

    assert refusal(source, folder).startswith(f"the chat template of {source} cannot be used: ")


def test_a_template_runs_in_a_sandbox_also_later(source):
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = "{{ messages.append.__globals__ }}{{ messages.clear() }}"

    with pytest.raises(jinja2.exceptions.SecurityError):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    with pytest.raises(RunError):
        check_template(tokenizer, source)


def test_a_link_out_of_the_folder_is_refused(source, folder, tmp_path):
    (tmp_path / "secret_key").write_text("secret")
    (source / "README.md").symlink_to(tmp_path / "secret_key")

    assert refusal(source, folder) == (
        f"{source}/README.md is a link out of the model's folder, to {tmp_path}/secret_key: put the "
        "file itself there"
    )


def test_links_of_the_hubs_cache_are_followed(source, folder, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    blobs = tmp_path / "models--a--b" / "blobs"
    shutil.copytree(source, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")

    import_folder(snapshot, folder)

    assert not (folder.path / "artifact" / "model.safetensors").is_symlink()


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "a/b", ""])
def test_an_index_that_names_files_elsewhere_is_refused(source, folder, name):
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": name}}))

    assert refusal(source, folder) == (
        f"{index} names the file {name}: its shards must lie beside it, under plain names"
    )


def test_an_index_that_is_none_is_refused(source, folder):
    index = source / "model.safetensors.index.json"
    index.write_text("[]")

    assert refusal(source, folder).startswith(f"{index} holds no object in braces")


# --- what is no model folder ----------------------------------------------------------------------
@pytest.mark.parametrize("has_model", [True, False])
def test_an_adapter_beside_a_model_or_a_gguf_file_is_not_loaded_with_it(source, folder, has_model):
    (source / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    if not has_model:
        (source / "model.safetensors").rename(source / "model.gguf")

    said = {refusal(source, folder)}
    if not has_model:
        said.add(refusal(source / "model.gguf", folder))

    assert [words.partition(". ")[0] for words in said] == [
        f"{source} holds an adapter (adapter_config.json)"
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "cannot be read: "),
        (b"\xff\xfe{}", "cannot be read: 'utf-8' codec can't decode"),
        (b"[]", "holds no object in braces"),
    ],
)
def test_a_configuration_that_is_none_is_refused(source, folder, content, said):
    (source / "config.json").write_bytes(content)

    assert refusal(source, folder).startswith(f"{source / 'config.json'} {said}")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": "64"}, "transformers does not know the model in"),
        ({"model_type": [1]}, "transformers does not know the model in"),
        ({"architectures": [5]}, "transformers does not know the model in"),
        ({"num_hidden_layers": -1}, "config.json in"),
    ],
)
def test_a_configuration_with_a_wrong_value_is_refused(source, folder, values, said):
    edit(source / "config.json", **values)

    assert refusal(source, folder).startswith(f"{said} {source}")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_has_the_name_of_a_file_and_is_none_is_refused(source, folder, make):
    make(source / "x.json")

    assert refusal(source, folder) == (
        f"{source / 'x.json'} is no file, though its name is that of one: take it out"
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "leaves out what is asked: it says ''"),
        ("{{ 'a' * 10**14 }}", "cannot be used: MemoryError"),
    ],
)
def test_a_template_that_asks_nothing_or_takes_all_memory_is_refused(
    source, folder, template, said
):
    (source / "chat_template.jinja").write_text(template)

    assert refusal(source, folder) == f"the chat template of {source} {said}"
