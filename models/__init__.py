"""Learning: CSI codec, impulse-response refiner, neural twin, beam agent; one file each, with config, module and loss.

What leaves this room is an `.onnx` file and its manifest (`controller.codec` says which); nothing here is imported
by the daemon.
"""
