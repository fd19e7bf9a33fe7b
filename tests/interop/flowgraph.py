"""A GNU Radio flowgraph for the system's Python: a capture, over and over, through a gr-zeromq sink.

flowgraph.py CAPTURE ADDRESS --socket pub|push [--tags RX_FREQ_HZ] [--key KEY] --rate-hz RATE
"""

import argparse
import signal
import sys

import pmt
from gnuradio import blocks, gr, zeromq


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("capture")
    parser.add_argument("address")
    parser.add_argument("--socket", choices=("pub", "push"), required=True)
    parser.add_argument("--tags", type=float, help="pass tags, among them rx_freq")
    parser.add_argument("--key", default="")
    parser.add_argument("--rate-hz", type=float, required=True)
    arguments = parser.parse_args()

    graph = gr.top_block()
    source = blocks.file_source(gr.sizeof_gr_complex, arguments.capture, True)
    source.set_begin_tag(pmt.intern("file_start"))
    throttle = blocks.throttle(gr.sizeof_gr_complex, arguments.rate_hz)
    passes_tags = arguments.tags is not None
    if arguments.socket == "pub":
        sink = zeromq.pub_sink(gr.sizeof_gr_complex, 1, arguments.address, 100, passes_tags, -1, arguments.key)
    else:
        sink = zeromq.push_sink(gr.sizeof_gr_complex, 1, arguments.address, 100, passes_tags, -1)
    if passes_tags:
        # The strobe's samples are zero: what is added is its tags.
        strobe = blocks.tags_strobe(
            gr.sizeof_gr_complex, pmt.from_double(arguments.tags), 1 << 16, pmt.intern("rx_freq")
        )
        add = blocks.add_cc()
        graph.connect(source, throttle, (add, 0))
        graph.connect(strobe, (add, 1))
        graph.connect(add, sink)
    else:
        graph.connect(source, throttle, sink)

    def stop(_number, _frame):
        graph.stop()

    signal.signal(signal.SIGTERM, stop)
    graph.start()
    sys.stdout.write("streaming\n")
    sys.stdout.flush()
    graph.wait()


if __name__ == "__main__":
    main()
