; The machine code of the thread team (team.py).
;
; %s is the shared state, words of 64 bits: 0 kernel, 1 table, 2 total, 3 chunk size; 16 ticket,
; 32 chunks done, 48 wake-ups, 64 sleepers, 80 stop, 96 mutex, 112 condition variable. A ticket
; is (number of chunks << 32) + the next chunk. PAUSE is replaced by the processor's hint.

declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()
declare void @PAUSE

define void @prepare(ptr %s) {
  %mutex = getelementptr i64, ptr %s, i64 96
  %condition = getelementptr i64, ptr %s, i64 112
  %m = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %c = call i32 @pthread_cond_init(ptr %condition, ptr null)
  ret void
}

; The i-th turn of a spinning loop: every 512th gives the core away.
define internal void @relax(i64 %i) {
  %part = and i64 %i, 511
  %give = icmp eq i64 %part, 511
  br i1 %give, label %yield, label %out
yield:
  %x = call i32 @sched_yield()
  br label %out
out:
  call void @PAUSE
  ret void
}

; Take chunks of the job until there are none. The fields of the job are read after a chunk is
; taken: they cannot change before that chunk is done.
define internal void @work(ptr %s, i64 %slot) {
entry:
  %chunk = getelementptr i64, ptr %s, i64 3
  %total = getelementptr i64, ptr %s, i64 2
  %table = getelementptr i64, ptr %s, i64 1
  %ticket = getelementptr i64, ptr %s, i64 16
  %done = getelementptr i64, ptr %s, i64 32
  br label %take
take:
  %k = atomicrmw add ptr %ticket, i64 1 acq_rel
  %next = and i64 %k, 4294967295
  %count = lshr i64 %k, 32
  %mine = icmp ult i64 %next, %count
  br i1 %mine, label %run, label %out
run:
  %f = load ptr, ptr %s
  %t = load ptr, ptr %table
  %n = load i64, ptr %total
  %c = load i64, ptr %chunk
  %lo = mul i64 %next, %c
  %end = add i64 %lo, %c
  %whole = icmp slt i64 %end, %n
  %hi = select i1 %whole, i64 %end, i64 %n
  call void %f(ptr %t, i64 %lo, i64 %hi, i64 %slot)
  %d = atomicrmw add ptr %done, i64 1 acq_rel
  br label %take
out:
  ret void
}

; A thread's life: spin for some 40 us, then sleep, until a wake-up; work, or leave at a stop.
define void @worker(ptr %s, i64 %slot) {
entry:
  %wakes = getelementptr i64, ptr %s, i64 48
  %sleepers = getelementptr i64, ptr %s, i64 64
  %stops = getelementptr i64, ptr %s, i64 80
  %mutex = getelementptr i64, ptr %s, i64 96
  %condition = getelementptr i64, ptr %s, i64 112
  br label %watch
watch:
  %seen = phi i64 [ 0, %entry ], [ %seen, %again ], [ %now, %go ]
  %i = phi i64 [ 0, %entry ], [ %i1, %again ], [ 0, %go ]
  %now = load atomic i64, ptr %wakes acquire, align 8
  %same = icmp eq i64 %now, %seen
  br i1 %same, label %idle, label %check
idle:
  call void @relax(i64 %i)
  %i1 = add i64 %i, 1
  %long = icmp sgt i64 %i1, 4000
  br i1 %long, label %park, label %again
park:
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  %z = atomicrmw add ptr %sleepers, i64 1 seq_cst
  br label %recheck
recheck:
  %w = load atomic i64, ptr %wakes seq_cst, align 8
  %still = icmp eq i64 %w, %seen
  br i1 %still, label %sleep, label %awake
sleep:
  %q = call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %recheck
awake:
  %z2 = atomicrmw sub ptr %sleepers, i64 1 seq_cst
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %again
again:
  br label %watch
check:
  %stop = load atomic i64, ptr %stops acquire, align 8
  %end = icmp ne i64 %stop, 0
  br i1 %end, label %out, label %go
go:
  call void @work(ptr %s, i64 %slot)
  br label %watch
out:
  ret void
}

define void @wake(ptr %s) {
  %wakes = getelementptr i64, ptr %s, i64 48
  %sleepers = getelementptr i64, ptr %s, i64 64
  %mutex = getelementptr i64, ptr %s, i64 96
  %condition = getelementptr i64, ptr %s, i64 112
  %o = atomicrmw add ptr %wakes, i64 1 seq_cst
  %z = load atomic i64, ptr %sleepers seq_cst, align 8
  %any = icmp sgt i64 %z, 0
  br i1 %any, label %call, label %out
call:
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  %b = call i32 @pthread_cond_broadcast(ptr %condition)
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %out
out:
  ret void
}

; Run a job on the team, this thread as slot 0; return when its last chunk is done.
define void @launch(ptr %s, i64 %f, i64 %t, i64 %n, i64 %c, i64 %count) {
entry:
  %table = getelementptr i64, ptr %s, i64 1
  %total = getelementptr i64, ptr %s, i64 2
  %chunk = getelementptr i64, ptr %s, i64 3
  %ticket = getelementptr i64, ptr %s, i64 16
  %done = getelementptr i64, ptr %s, i64 32
  store i64 %f, ptr %s
  store i64 %t, ptr %table
  store i64 %n, ptr %total
  store i64 %c, ptr %chunk
  store atomic i64 0, ptr %done release, align 8
  %tick = shl i64 %count, 32
  store atomic i64 %tick, ptr %ticket release, align 8
  call void @wake(ptr %s)
  call void @work(ptr %s, i64 0)
  br label %wait
wait:
  %i = phi i64 [ 0, %entry ], [ %i1, %more ]
  %d = load atomic i64, ptr %done acquire, align 8
  %ok = icmp sge i64 %d, %count
  br i1 %ok, label %out, label %more
more:
  call void @relax(i64 %i)
  %i1 = add i64 %i, 1
  br label %wait
out:
  ret void
}

; The same chunks one after the other, without the team.
define void @alone(i64 %f, i64 %t, i64 %n, i64 %c) {
entry:
  %fp = inttoptr i64 %f to ptr
  %tp = inttoptr i64 %t to ptr
  br label %loop
loop:
  %lo = phi i64 [ 0, %entry ], [ %end, %loop ]
  %end = add i64 %lo, %c
  %more = icmp slt i64 %end, %n
  %hi = select i1 %more, i64 %end, i64 %n
  call void %fp(ptr %tp, i64 %lo, i64 %hi, i64 0)
  br i1 %more, label %loop, label %out
out:
  ret void
}

; Jobs one after the other, as rows of kernel, table, total, chunk size and number of chunks; those
; of several chunks on the team if %all.
define void @play(ptr %s, i64 %all, ptr %jobs, i64 %count) {
entry:
  %team = icmp ne i64 %all, 0
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %next ]
  %first = mul i64 %i, 5
  %job = getelementptr i64, ptr %jobs, i64 %first
  %table = getelementptr i64, ptr %job, i64 1
  %total = getelementptr i64, ptr %job, i64 2
  %chunk = getelementptr i64, ptr %job, i64 3
  %chunks = getelementptr i64, ptr %job, i64 4
  %f = load i64, ptr %job
  %t = load i64, ptr %table
  %n = load i64, ptr %total
  %c = load i64, ptr %chunk
  %m = load i64, ptr %chunks
  %several = icmp sgt i64 %m, 1
  %shared = and i1 %several, %team
  br i1 %shared, label %together, label %single
together:
  call void @launch(ptr %s, i64 %f, i64 %t, i64 %n, i64 %c, i64 %m)
  br label %next
single:
  call void @alone(i64 %f, i64 %t, i64 %n, i64 %c)
  br label %next
next:
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %count
  br i1 %more, label %loop, label %out
out:
  ret void
}
