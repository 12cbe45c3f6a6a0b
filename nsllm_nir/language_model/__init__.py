"""NSLLM: spiking language models as Hugging Face models, their training, and their NIR form both ways."""
