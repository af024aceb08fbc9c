"""The owner's service: a listener that holds the key, and for each session an executor process that holds the tensors.

``session.executor_process`` and ``session.data_sets`` import torch and run in executors only; nothing else here does.
"""
