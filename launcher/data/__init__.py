"""From a dataset to the micro-batches of a rank: order, loading, copies to the device."""
