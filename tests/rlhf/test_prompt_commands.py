import json

import pytest
from django.core.management import CommandError, call_command

from rlhf.prompting import prompting_in
from tests.factories import ProjectFactory
from tests.rlhf.factories import PolicyFactory

pytestmark = pytest.mark.django_db


def test_documents_and_a_prompt_version_by_command(tmp_path, capsys):
    policy = PolicyFactory(project=ProjectFactory(slug="tea"), name="polite")
    (tmp_path / "cats.md").write_text("They purr.")
    (tmp_path / "system.txt").write_text("Be brief.")
    said = tmp_path / "relevant.jsonl"
    said.write_text('{"question": "purr", "relevant": ["cats"]}\n')

    call_command("documents", "tea", "Pets", tmp_path / "cats.md", relevant=said, json=True)
    call_command("prompt", "tea", "polite", system=f"@{tmp_path}/system.txt", documents="Pets")

    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {
        "collection": "Pets v1", "documents": 1, "passages": 1,
        "k": 5, "n_questions": 1, "hit_at_k": 1.0, "mrr": 1.0, "ndcg": 1.0,
    }  # fmt: skip
    version = policy.children.get()
    assert second == f"polite-prompt-1 ({version.pk})"
    assert prompting_in(version).system == "Be brief."
    assert version.details["collection"] == "Pets v1"


def test_of_a_folder_nothing_is_taken_that_a_link_leads_to_outside_of_it(tmp_path, capsys):
    project = ProjectFactory(slug="tea")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "cats.md").write_text("They purr.")
    (tmp_path / "pets" / "notes.txt").symlink_to(tmp_path / "secret.txt")

    call_command("documents", "tea", "Pets", tmp_path / "pets")

    assert project.collections.get().details["sources"] == ["cats.md"]


def test_what_is_refused_is_a_sentence(tmp_path):
    PolicyFactory(project=ProjectFactory(slug="tea"), name="polite")

    with pytest.raises(CommandError, match="This is polite as it is"):
        call_command("prompt", "tea", "polite")
    with pytest.raises(CommandError, match="has no collection of documents Pets"):
        call_command("prompt", "tea", "polite", documents="Pets")
    with pytest.raises(CommandError, match="There is no text in these documents"):
        call_command("documents", "tea", "Pets", tmp_path)
