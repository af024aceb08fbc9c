"""The owner's service: a listener that holds the key, and for each session an executor process that holds the tensors.

``session.executor_process``, ``session.data_sets`` and ``study.trainer_process`` import torch and run in processes of
their own; nothing else here does.
"""
