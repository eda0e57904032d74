-- What a step that was answered from a cache saved: the price of the call that was made for the first who asked.

alter table step add column saved_nano bigint not null default 0 check (saved_nano >= 0);
