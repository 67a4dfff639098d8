"""The foundations: errors, the registry of options, scaled tensors, data, the wording of messages."""
