"""Frames → maps → files.

The way of a video, as [`SaliencyPredictor.stream`][salfom_hf.inference.predictor.SaliencyPredictor.stream] goes it:

    frames    models/video_processing_salfom.py  frames_of: a file (video/reading.py), an array or a list of images
    shots     cuts.py                            shots: the window starts again at hard cuts
    clips     models/video_processing_salfom.py  prepare_frames: each frame to pixels of the network's size
    maps      predictor.py                       saliency_maps chooses one of three ways, all with the same results:
                sliding_window.py  still_maps    a picture
                shared_windows.py  shared_maps   on a CPU, encoders that see single frames (salfom)
                sliding_window.py  window_maps   on a GPU, and encoders that see whole clips (salfom-large)
    resized   models/video_processing_salfom.py  resize_map: each map back to the frames' size
    output    results.py                         maps drawn over frames (video/drawing.py), written (video/writing.py)
              table.py                           maps in numbers, for people and spreadsheets

`threads.py`, `cpu.py` and `encoder_graph.py` make all that fast; `many.py` and `processes.py` are for collections of
videos, `live/` for cameras, `pipeline.py` for `transformers.pipeline`. `pipeline_salfom.py` is what a model on the Hub
brings along.
"""
