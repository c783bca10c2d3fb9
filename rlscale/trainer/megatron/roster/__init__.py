"""The named models of a rank, and which of them has the device's memory."""
