; The machine code of `panel` (panel.py), for one precision, in three templates. What stands between
; { and } with stars is written once for each of ROWS rows, # being its number; with pluses, for
; every third of them. ^ is the third row at or before the #-th, ~ the distance from there.
;
; Rows of a are reached from every third one, through a register and an addressing mode. How these
; begin is hidden from the compiler by an empty assembly text: it would walk from row to row by an
; addition each, and a multiply-add of AVX-512 takes half as long as that.

; c (ROWS, COLUMNS) = a (ROWS, k) b (k, COLUMNS), plus c where add is set.
define internal void @NAME_PANELS_ROWS(i64 %k, ptr noalias %a, i64 %up, i64 %over, ptr noalias %b,
    i64 %apart, i64 %ldb, ptr noalias %c, i64 %ldc, i1 %add) noinline nounwind {
entry:
*{  %oc# = mul i64 %ldc, #
  %c# = getelementptr REAL, ptr %c, i64 %oc#
}*+{  %q# = mul i64 %up, #
  %a# = getelementptr REAL, ptr %a, i64 %q#
  %row# = call ptr asm "", "=r,0"(ptr %a#)
}+  %up0 = mul i64 %up, 0
  %up1 = mul i64 %up, 1
  %up2 = mul i64 %up, 2
  %some = icmp sgt i64 %k, 0
  br i1 %some, label %loop, label %done
loop:
  %p = phi i64 [ 0, %entry ], [ %p1, %loop ]
+{  %pa# = phi ptr [ %row#, %entry ], [ %next#, %loop ]
}+  %pb = phi ptr [ %b, %entry ], [ %pb1, %loop ]
*{  %t# = phi VECTOR [ zeroinitializer, %entry ], [ %n#, %loop ]
}*  %left = load PANEL, ptr %pb, align 4
  %pr = getelementptr REAL, ptr %pb, i64 %apart
  %right = load PANEL, ptr %pr, align 4
  %v = shufflevector PANEL %left, PANEL %right, <COLUMNS x i32> <PLACES>
*{  %g# = getelementptr REAL, ptr %pa^, i64 %up~
  %e# = load REAL, ptr %g#
  %h# = insertelement VECTOR poison, REAL %e#, i64 0
  %w# = shufflevector VECTOR %h#, VECTOR poison, <COLUMNS x i32> zeroinitializer
  %n# = call VECTOR @llvm.fmuladd.SUFFIX(VECTOR %w#, VECTOR %v, VECTOR %t#)
}*  %p1 = add nuw nsw i64 %p, 1
+{  %next# = getelementptr REAL, ptr %pa#, i64 %over
}+  %pb1 = getelementptr REAL, ptr %pb, i64 %ldb
  %more = icmp slt i64 %p1, %k
  br i1 %more, label %loop, label %done
done:
*{  %f# = phi VECTOR [ zeroinitializer, %entry ], [ %n#, %loop ]
}*  br i1 %add, label %sum, label %alone
alone:
*{  store VECTOR %f#, ptr %c#, align 4
}*  ret void
sum:
*{  %o# = load VECTOR, ptr %c#, align 4
  %s# = fadd VECTOR %f#, %o#
  store VECTOR %s#, ptr %c#, align 4
}*  ret void
}

;----
; The same for m rows: tiles of ROWS, and one or two halves of those that are left.
declare VECTOR @llvm.fmuladd.SUFFIX(VECTOR, VECTOR, VECTOR)

define internal void @NAME_PANELS(i64 %m, i64 %k, ptr %a, i64 %up, i64 %over, ptr %b, i64 %apart,
    i64 %ldb, ptr %c, i64 %ldc, i1 %add) nounwind {
entry:
  %some = icmp sgt i64 %m, 0
  br i1 %some, label %loop, label %out
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %next ]
  %left = sub i64 %m, %i
  %more1 = add i64 %left, 1
  %half = lshr i64 %more1, 1
  %one = icmp sle i64 %left, ROWS
  %two = icmp slt i64 %half, ROWS
  %few = select i1 %one, i64 %left, i64 %half
  %n = select i1 %two, i64 %few, i64 ROWS
  %oa = mul i64 %i, %up
  %pa = getelementptr REAL, ptr %a, i64 %oa
  %oc = mul i64 %i, %ldc
  %pc = getelementptr REAL, ptr %c, i64 %oc
  switch i64 %n, label %out [
*{    i64 #, label %rows#
}*  ]
*{rows#:
  call void @NAME_PANELS_#(i64 %k, ptr %pa, i64 %up, i64 %over, ptr %b, i64 %apart, i64 %ldb,
      ptr %pc, i64 %ldc, i1 %add)
  br label %next
}*next:
  %i1 = add i64 %i, %n
  %more = icmp slt i64 %i1, %m
  br i1 %more, label %loop, label %out
out:
  ret void
}

;----
; The same for n panels: PANELS at a time, then one by one.
define void @NAME(i64 %m, i64 %n, i64 %k, ptr %a, i64 %up, i64 %over, ptr %b, i64 %apart,
    i64 %ldb, ptr %c, i64 %ldc, i8 %plus) nounwind {
entry:
  %add = icmp ne i8 %plus, 0
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %loop, label %out
loop:
  %j = phi i64 [ 0, %entry ], [ %j1, %next ]
  %ob = mul i64 %j, %apart
  %pb = getelementptr REAL, ptr %b, i64 %ob
  %oc = mul i64 %j, BLOCK
  %pc = getelementptr REAL, ptr %c, i64 %oc
  %left = sub i64 %n, %j
  %enough = icmp sge i64 %left, PANELS
  %step = select i1 %enough, i64 PANELS, i64 1
  br i1 %enough, label %several, label %one
several:
  call void @NAME_PANELS(i64 %m, i64 %k, ptr %a, i64 %up, i64 %over, ptr %pb, i64 %apart, i64 %ldb,
      ptr %pc, i64 %ldc, i1 %add)
  br label %next
one:
  call void @NAME_1(i64 %m, i64 %k, ptr %a, i64 %up, i64 %over, ptr %pb, i64 %apart, i64 %ldb,
      ptr %pc, i64 %ldc, i1 %add)
  br label %next
next:
  %j1 = add i64 %j, %step
  %more = icmp slt i64 %j1, %n
  br i1 %more, label %loop, label %out
out:
  ret void
}
