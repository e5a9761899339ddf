"""The default prompts of the built-in views, and the strategies they offer. Text only; `base.py` fills them in."""

from __future__ import annotations

QUESTION = "{question}"
STRATEGIES_HERE = "{strategies}"
REWORDING = "{rewording}"
DRAFT = "{draft}"
"""The placeholders of templates. They are replaced literally and all at once; any other brace stays as it is."""

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

SEVERAL_STRATEGIES = "Pick exactly one strategy for the restatement:"
ONE_STRATEGY = "Use this strategy for the restatement:"

REFRAMER = """First restate the problem below in a different way, then solve it by way of your restatement.

{strategies}

The restatement must keep every fact that the answer depends on, must not give the answer away, and must lead to the same \
answer as the original problem. Do not copy the original wording.

Write three sections, in this order and under exactly these headings:
STRATEGY: <the name of the strategy>
REWRITTEN PROBLEM: <the whole restated problem>
SOLUTION: <step-by-step reasoning>
End the SOLUTION section with the answer to the original problem in \\boxed{}.

Original problem:
{question}

The three sections:
"""

REWORDER = """Restate the problem below in a different way. Do not solve it: somebody who never sees the original will be \
given your restatement to solve.

{strategies}

The restatement must keep every fact that the answer depends on, must not give the answer away, and must have the same \
answer as the original problem. Do not copy the original wording. If the problem has lettered choices, leave them out: they \
are put below your restatement as they are.

Write two sections, in this order and under exactly these headings, and nothing after them:
STRATEGY: <the name of the strategy>
REWRITTEN PROBLEM: <the whole restated problem>

Original problem:
{question}

The two sections:
"""

REWORDING_SOLVER = SOLVER.replace(QUESTION, REWORDING)
