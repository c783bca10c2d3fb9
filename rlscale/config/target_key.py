"""The key that names a class or function. It stands alone, so that processes that build one import no schema."""

TARGET = "_target_"
