"""The default prompts of the built-in views. Text only; `base.py` fills them in."""

from __future__ import annotations

QUESTION = "{question}"
"""The one placeholder of a template. It is replaced literally; any other brace stays as it is."""

SOLVER = """Solve the problem below. Reason step by step, and finish with the final answer in \\boxed{}.

Problem:
{question}

Solution:
"""

CHOICE_INSTRUCTION = "The final answer is the letter of one of the choices."

STRATEGIES: tuple[tuple[str, str], ...] = (
    ("Concretize", "replace something abstract by a specific example or a familiar setting"),
    ("Generalize", "state the general pattern that the problem is one case of"),
    ("Domain shift", "tell the same structure in another field, with other objects"),
    ("Add noise", "add details that do not matter and change nothing"),
    ("Reverse", "start from the unknown and ask which value makes everything consistent"),
    ("Incremental complexity", "begin with a simple version and build up to the full problem step by step"),
    ("Focus on constraints", "put the conditions first and ask what they leave possible"),
    ("Point-of-view shift", "let another person or part of the situation pose the question"),
)
"""The eight rewriting strategies of Self-Harmony (arXiv 2511.01191), explained in our own words."""

_STRATEGY_LINES = "\n".join(f"- {name}: {what}." for name, what in STRATEGIES)

REFRAMER = f"""First restate the problem below in a different way, then solve it by way of your restatement.

Pick exactly one strategy for the restatement:
{_STRATEGY_LINES}

The restatement must keep every fact that the answer depends on, must not give the answer away, and must lead to the same \
answer as the original problem. Do not copy the original wording.

Write three sections, in this order and under exactly these headings:
STRATEGY: <the name of the strategy>
REWRITTEN PROBLEM: <the whole restated problem>
SOLUTION: <step-by-step reasoning>
End the SOLUTION section with the answer to the original problem in \\boxed{{}}.

Original problem:
{QUESTION}

The three sections:
"""
