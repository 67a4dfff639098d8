"""What makes the updates of a batch: plain operations of PyTorch, or something faster that is compared with them first."""
