"""Where problems come from. A source gives `problems()` without any answer, and `gold()` apart from them.

Nothing here imports torch, ray, transformers or vllm; pyarrow is loaded only to read a Parquet file.
"""
