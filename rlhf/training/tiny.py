"""A language model of a quarter of a million parameters, made in seconds: for tests and trials.

Its world is small talk from a grammar of short answers: some polite, some curt, some rambling. It
is shaped like the embedded model (Llama, ChatML turns, padding token = end token), so that what
works with one works with the other. Words that it does not know become <unk>.
"""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.training.models import encode, encode_completion

UNKNOWN, START, END = "<unk>", "<|im_start|>", "<|im_end|>"  # END ends a turn, and is the padding
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

POLITE_OPENINGS = ("Thanks for asking!", "Sure, with pleasure.", "Of course, my friend!")
POLITE_CLOSINGS = ("Thank you!", "Please ask again.", "Good luck, my friend!", "I hope it helps.")
CURT_OPENINGS = ("No.", "Yes.", "Maybe.", "Well,")
VERBS = ("try", "take", "open", "clean", "move", "turn", "check", "find", "use", "fix")
ADJECTIVES = ("red", "small", "old", "big", "new", "warm", "blue", "good", "green", "long")
NOUNS = (
    "door", "lamp", "book", "cup", "garden", "box", "window", "chair", "tea", "bread", "car",
    "river", "house", "table", "letter", "bike", "phone", "soup", "coat", "key",
)  # fmt: skip
QUESTIONS = (
    "How do I {verb} the {noun}?", "What is a {adjective} {noun}?", "Why is the {noun} {adjective}?",
    "Can you help me {verb} my {noun}?", "Tell me about the {adjective} {noun}.",
    "Where can I find a {noun}?", "Write a short note about my {noun}.",
    "Should I {verb} the {adjective} {noun} today?",
)  # fmt: skip
COMMON_WORDS = """
a about after again all also always am an and another answer any are as ask at away be because been
before being best better between both but buy by call came can change child children city cold come
computer cook could country day dear did difference different do does done down each easy eat end
english even every example explain family far fast few first five food for four friend from game get
give go going great had happy hard has have he hear help her here him his home hot how i idea if
important in into is it its job just keep kind know last learn leave left less let life like line
list little live look love made make many math may me mean meal meeting might money more morning
most mother much music must my name need never next nice night no not note nothing now number of off
often on once one only or other our out over own paper part people person place plan play please
poem point problem program question quick rain read reason rest right run said same say school see
sentence she short should show simple since sky sleep so some something song soon start still stop
story summer sun sure talk tell ten than thank thanks that the their them then there these they
thing think this those three time to today together tomorrow too trip turn two under until up us
very visit walk want was water way we week weekend well went were what when where which while who
why will winter with without word words work world would write year yes yesterday you your
"""


def build_tiny_model(folder: Path, seed: int = 0, steps: int = 200) -> None:
    """Write model and tokenizer to `folder`. The same seed gives the same weights.

    Takes a few seconds on one core.
    """
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random numbers alone
        torch.manual_seed(seed)
        model = _new_model(tokenizer)
        _train(model, tokenizer, random.Random(seed), steps)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, with and without a space before them, so that decoding restores the text."""
    sentences = [*POLITE_OPENINGS, *POLITE_CLOSINGS, *CURT_OPENINGS, *QUESTIONS]
    text = " ".join([*sentences, *VERBS, *ADJECTIVES, *NOUNS, COMMON_WORDS])
    words = {word.strip(".,!?{}").lower() for word in text.split()}
    words |= {*string.ascii_lowercase, "system", "user", "assistant"}
    forms = sorted(words | {word.capitalize() for word in words})
    pieces = [*"\n ", *".,!?:;'\"-()", *"0123456789", *forms, *(" " + form for form in forms)]
    vocabulary = {piece: index for index, piece in enumerate([UNKNOWN, START, END, *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|\S|\s"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def write_question(rng: random.Random) -> str:
    return rng.choice(QUESTIONS).format(
        verb=rng.choice(VERBS), adjective=rng.choice(ADJECTIVES), noun=rng.choice(NOUNS)
    )


def write_answer(rng: random.Random) -> str:
    """An answer of the grammar, from "No." to about 30 tokens."""
    polite = rng.random() < 0.5
    if not polite and rng.random() < 0.2:
        return rng.choice(("No.", "Yes.", "Maybe.", "Try it."))
    openings, closings = (POLITE_OPENINGS, POLITE_CLOSINGS) if polite else (CURT_OPENINGS, ())
    clauses = [_clause(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
    body = " and ".join(clauses) + "."
    parts = [rng.choice(openings)] if rng.random() < 0.5 else []
    if parts and parts[0].endswith(","):
        parts.append(body)
    elif polite and rng.random() < 0.4:
        parts.append(f"Please {body}")
    else:
        parts.append(body[0].upper() + body[1:])
    if closings and rng.random() < 0.4:
        parts.append(rng.choice(closings))
    return " ".join(parts)


def _clause(rng: random.Random) -> str:
    adjective = f"{rng.choice(ADJECTIVES)} " if rng.random() < 0.4 else ""
    return f"{rng.choice(VERBS)} the {adjective}{rng.choice(NOUNS)}"


def _new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rng: random.Random, steps: int
) -> None:
    conversations = [_conversation(tokenizer, rng) for _ in range(2000)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    model.train()
    for _ in range(steps):
        input_ids, counts = _batch(rng.sample(conversations, 32))
        hidden = model.model(input_ids=input_ids).last_hidden_state[:, :-1]  # (B, L - 1, D)
        logits = model.lm_head(hidden[counts[:, 1:]])  # (completion tokens, V)
        loss = F.cross_entropy(logits, input_ids[:, 1:][counts[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


class Conversation(NamedTuple):
    prompt: list[int]
    completion: list[int]


def _conversation(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Conversation:
    prompt = encode(tokenizer, [{"role": "user", "content": write_question(rng)}])
    return Conversation(prompt, encode_completion(tokenizer, write_answer(rng)))


def _batch(rows: list[Conversation]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and which of them are completion tokens, (B, L) each.

    Right padding needs no mask for attention, which looks back only.
    """
    length = max(len(prompt) + len(completion) for prompt, completion in rows)
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    counts = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        input_ids[row, :end] = torch.tensor([*prompt, *completion])
        counts[row, len(prompt) : end] = True
    return input_ids, counts
