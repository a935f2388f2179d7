"""The trainer: tokenizer, data, model, optimizer, evaluation and chat, on whatever accelerator there is.

It never imports `doctor`. Every difference between devices lives in `device.py`.
"""
