"""The benchmarks that have a name: where each one is on the Hugging Face hub and what its columns mean.

A preset is values for options of the hub source; what a user states wins over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # 500 problems of MATH; also a column "subject"
    "math500": {
        "dataset": "HuggingFaceH4/MATH-500",
        "split": "test",
        "id_column": "unique_id",
        "question_column": "problem",
        "answer_column": "answer",
        "category_column": "level",
    },
    # 1,319 problems; an answer is its derivation, then "#### 18"
    "gsm8k": {
        "dataset": "openai/gsm8k",
        "config": "main",
        "split": "test",
        "question_column": "question",
        "answer_column": "answer",
        "answer_after": "####",
    },
    # 30 problems, both papers of the year
    "aime2024": {
        "dataset": "HuggingFaceH4/aime_2024",
        "split": "train",
        "id_column": "id",
        "question_column": "problem",
        "answer_column": "answer",
    },
    # 83 problems of AMC 12, 2022 and 2023; answers are floating-point numbers
    "amc": {
        "dataset": "AI-MO/aimo-validation-amc",
        "split": "train",
        "id_column": "id",
        "question_column": "problem",
        "answer_column": "answer",
    },
    # 198 questions, gated: its authors ask not to publish them in plain text; also a column "Subdomain"
    "gpqa_diamond": {
        "dataset": "Idavidrein/gpqa",
        "config": "gpqa_diamond",
        "split": "train",
        "id_column": "Record ID",
        "question_column": "Question",
        "answer_column": "Correct Answer",
        "wrong_answer_columns": ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
        "category_column": "High-level domain",
    },
    # 12,032 questions with up to ten choices
    "mmlu_pro": {
        "dataset": "TIGER-Lab/MMLU-Pro",
        "split": "test",
        "id_column": "question_id",
        "question_column": "question",
        "options_column": "options",
        "answer_column": "answer",
        "category_column": "category",
    },
}
