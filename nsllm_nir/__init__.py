"""nsllm-nir: spiking language models from snnTorch to NIR, Lava and FPGA HLS, spike for spike."""
