; What kernels call `move`, `fetch` and `stream`, for one precision: REAL of SIZE bytes, LINE of them
; in a line of the cache. Part of the maths library (maths.py).

declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

;----
; Copy n numbers (LLVM unrolls a short loop before it would see that it is a copy).
define linkonce_odr void @ml_move_NAME(ptr %to, ptr %of, i64 %n) alwaysinline nounwind {
  %bytes = mul i64 %n, SIZE
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %of, i64 %bytes, i1 0)
  ret void
}

; Ask for the lines of n numbers, which are read soon, into L2; beyond the memory this does no harm.
define linkonce_odr void @ml_fetch_NAME(ptr %of, i64 %n) alwaysinline nounwind {
before:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %loop, label %out
loop:
  %i = phi i64 [ 0, %before ], [ %next, %loop ]
  %line = getelementptr REAL, ptr %of, i64 %i
  call void @llvm.prefetch.p0(ptr %line, i32 0, i32 2, i32 1)
  %next = add nuw nsw i64 %i, LINE
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %out
out:
  ret void
}

; Copy n numbers past the cache where `to` begins a line and n is a number of whole lines.
; Other threads see them after the next locked instruction, which ends every chunk of a job.
define linkonce_odr void @ml_stream_NAME(ptr %to, ptr %of, i64 %n) alwaysinline nounwind {
entry:
  %place = ptrtoint ptr %to to i64
  %bytes = mul i64 %n, SIZE
  %both = or i64 %place, %bytes
  %odd = and i64 %both, 63
  %plain = icmp ne i64 %odd, 0
  br i1 %plain, label %copy, label %lines
copy:
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %of, i64 %bytes, i1 0)
  br label %out
lines:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %loop, label %out
loop:
  %i = phi i64 [ 0, %lines ], [ %next, %loop ]
  %from = getelementptr REAL, ptr %of, i64 %i
  %at = getelementptr REAL, ptr %to, i64 %i
  %line = load <LINE x REAL>, ptr %from, align SIZE
  store <LINE x REAL> %line, ptr %at, align 64, !nontemporal !0
  %next = add nuw nsw i64 %i, LINE
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %out
out:
  ret void
}
