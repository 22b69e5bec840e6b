"""Functions that give rewards, as the owner of a machine writes them: a run's process imports this module."""


def thanks(prompts, completions):
    return [float("thank" in completion.lower()) for completion in completions]
