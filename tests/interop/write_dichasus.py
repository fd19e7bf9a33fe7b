"""Writes a TFRecord as DICHASUS's files are, with TensorFlow itself: write_dichasus.py ARRAYS.npz OUT.tfrecords

ARRAYS holds csi [R, A, S] complex64 (FFT order), position_m [R, 3], snr_db [R, A], time_s [R], age_s [R].
"""

import sys

import numpy as np
import tensorflow as tf


def tensor(array):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.io.serialize_tensor(array).numpy()]))


def number(value):
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


def main():
    arrays = np.load(sys.argv[1])
    with tf.io.TFRecordWriter(sys.argv[2]) as out:
        for n, csi in enumerate(arrays["csi"]):
            parts = np.stack([csi.real, csi.imag], axis=-1).astype(np.float32)
            feature = {
                "csi": tensor(tf.constant(parts)),
                "pos-tachy": tensor(tf.constant(arrays["position_m"][n], tf.float64)),
                "snr": tensor(tf.constant(arrays["snr_db"][n], tf.float32)),
                "cfo": tensor(tf.constant(np.zeros(csi.shape[0], np.float32))),
                "time": number(float(arrays["time_s"][n])),
                "gt-interp-age-tachy": number(float(arrays["age_s"][n])),
            }
            out.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


if __name__ == "__main__":
    main()
