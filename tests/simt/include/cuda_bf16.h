// CUDA's header of this name: its types are part of simt.h.
#pragma once
