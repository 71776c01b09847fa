"""The built-in passes: one file each, registered as entry points of `onnxslim_rx.passes`."""
