"""The transmitters of an srsRAN ZeroMQ radio in plain Python.

srsran_peer.py CAPTURE ADDRESS [ADDRESS...] --rate-hz RATE. As srsRAN Project's radio_zmq_tx_channel does it: a REP
socket a channel, bound; whatever is asked is answered by all samples that are there, at least one, as bare complex64.
"""

import argparse
import sys
import time
from pathlib import Path

import zmq

SAMPLE_BYTES = 8
BUFFER_SAMPLES = 614_400


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("capture", type=Path)
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--rate-hz", type=float, required=True, help="samples that the radio makes in a second")
    arguments = parser.parse_args()
    data = arguments.capture.read_bytes()
    context = zmq.Context()
    sockets = []
    for address in arguments.addresses:
        socket = context.socket(zmq.REP)
        socket.bind(address)
        sockets.append(socket)
    sent, asked = [0] * len(sockets), [False] * len(sockets)
    begun = time.monotonic()
    sys.stdout.write("bound\n")
    sys.stdout.flush()
    while True:
        time.sleep(1e-3)  # a slot of 30 kHz is made in half of it, and at an eighth of the pace in four
        for channel, socket in enumerate(sockets):
            if not asked[channel] and socket.poll(0):
                if len(socket.recv()) != 1:
                    sys.exit("a request is one byte")
                asked[channel] = True
            made = min(int((time.monotonic() - begun) * arguments.rate_hz) - sent[channel], BUFFER_SAMPLES)
            if asked[channel] and made > 0:
                place = sent[channel] * SAMPLE_BYTES % len(data)
                repeated = data[place:] + data * (made * SAMPLE_BYTES // len(data) + 1)
                socket.send(repeated[: made * SAMPLE_BYTES])
                sent[channel] += made
                asked[channel] = False


if __name__ == "__main__":
    main()
