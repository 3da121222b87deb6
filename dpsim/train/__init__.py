"""Training: from data to weights. Settings, batches, loss, the loop, and the files it keeps."""
