"""The data room: batches in an order that is a function of seed and epoch, and that can be continued at any batch."""
