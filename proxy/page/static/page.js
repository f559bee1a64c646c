// The page's script: answers as they grow, changes as they come, keys. All of the page works without it.
'use strict';
(() => {
  const LONGEST = 500; // articles that stay in the document
  const body = document.body;
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const policy = window.trustedTypes ? trustedTypes.createPolicy('branchline', { createHTML: (html) => html }) : null;
  body.classList.add('script');

  // --- pieces --------------------------------------------------------------------------------------------------------

  /** An element with attributes and children; texts stay texts. */
  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  /** The one place where HTML becomes elements: a screen of our own origin. Scripts in it are never run. */
  async function load(url) {
    const target = new URL(url, location.href);
    if (target.origin !== location.origin || !target.pathname.startsWith('/ui/')) throw new Error('not ours');
    const answer = await fetch(target, { headers: { Accept: 'text/html' }, credentials: 'same-origin' });
    const html = await answer.text();
    return new DOMParser().parseFromString(policy ? policy.createHTML(html) : html, 'text/html');
  }

  let saying = 0;
  /** Tells something in the status line, for a while. */
  function say(text, seconds = 4) {
    const line = find('#status');
    if (!line) return;
    line.textContent = text;
    clearTimeout(saying);
    if (seconds) saying = setTimeout(() => { line.textContent = ''; }, seconds * 1000);
  }

  // --- windows -------------------------------------------------------------------------------------------------------

  /** Puts more items before or behind those that are shown; nothing moves under the reader's eyes. */
  async function insert(link) {
    const where = link.dataset.insert;
    const thread = find('#thread');
    link.textContent = 'loading…';
    const url = new URL(link.href);
    url.searchParams.set('part', 'items');
    const more = await load(url);
    const pager = link.closest('.pager');
    const other = where === 'before' ? '.later' : '.earlier';
    all(`.pager${other}`, more).forEach((one) => one.remove());
    const nodes = [...more.body.childNodes];
    const added = nodes.filter((node) => node.matches && node.matches('.item'));
    if (where === 'before') {
      const anchor = pager.nextElementSibling;
      const before = anchor ? anchor.getBoundingClientRect().top : 0;
      pager.replaceWith(...nodes);
      if (anchor) window.scrollBy(0, anchor.getBoundingClientRect().top - before);
    } else {
      pager.replaceWith(...nodes);
    }
    trim(thread, where);
    const first = where === 'before' ? added[added.length - 1] : added[0];
    if (first) first.focus({ preventScroll: true });
    say(`${added.length} items more`);
  }

  /** Keeps the document short: what is farthest from what was just read goes, and a link to it stays. */
  function trim(thread, where) {
    const items = all('.item', thread);
    const extra = items.length - LONGEST;
    if (extra <= 0) return;
    const edge = where === 'before' ? items[items.length - extra - 1] : items[extra];
    const link = make('a', { href: around(edge) }, `${extra} items were taken out; show them`);
    const pager = make('nav', { class: 'pager', 'aria-label': 'Items that were taken out' }, link);
    all('.pager' + (where === 'before' ? '.later' : '.earlier'), thread).forEach((one) => one.remove());
    if (where === 'before') {
      while (edge.nextSibling) edge.nextSibling.remove();
      thread.append(pager);
    } else {
      while (edge.previousSibling) edge.previousSibling.remove();
      thread.prepend(pager);
    }
  }

  function around(item) {
    const url = new URL(location.pathname, location.href);
    url.searchParams.set('branch', body.dataset.branch || '');
    url.searchParams.set('around', item.dataset.id);
    url.hash = item.id;
    return url;
  }

  // --- live: a conversation ------------------------------------------------------------------------------------------

  let source = null;
  let waiting = null; // a turn of ours: {response, location, stays}
  let state = body.dataset.state || '';
  let refreshing = null;

  function listen() {
    const url = (waiting && waiting.live) || body.dataset.live;
    if (!url || source || document.hidden || !window.EventSource) return;
    const target = new URL(url, location.href);
    if (state && !(waiting && waiting.live)) target.searchParams.set('since', state);
    source = new EventSource(target);
    source.addEventListener('change', (event) => {
      const isNews = event.lastEventId !== state;
      state = event.lastEventId;
      if (isNews) refresh();
    });
    source.addEventListener('running', (event) => {
      const running = JSON.parse(event.data);
      if (waiting && running.response === waiting.response) waiting.isSeen = true;
      begin(running);
    });
    source.addEventListener('open', () => setTimeout(settle, 1000, waiting));
    source.addEventListener('delta', (event) => grow(JSON.parse(event.data)));
    source.addEventListener('done', (event) => end(JSON.parse(event.data)));
    source.addEventListener('gone', () => { say('This conversation was deleted.', 0); hush(); });
  }

  /** A turn that was over before anybody listened: how it ended is asked for. */
  async function settle(mine) {
    if (!mine || mine !== waiting || mine.isSeen) return;
    const answer = await fetch(`/ui/r/${mine.response}/json`, { credentials: 'same-origin' });
    if (mine !== waiting || mine.isSeen) return;
    if (!answer.ok) { await end({ response: mine.response, status: null, error: { message: 'Nothing was kept of this turn.' } }); return; }
    const { status, error } = await answer.json();
    await end({ response: mine.response, status, error });
  }

  function hush() {
    if (source) source.close();
    source = null;
  }

  /** Shows that a response is being made, from its beginning. */
  function begin({ response, followable }) {
    if (body.dataset.tip !== 'yes' && !waiting) return;
    let box = find('#running');
    if (box && box.dataset.response !== response) { box.remove(); box = null; }
    if (!box) {
      box = make('section', { class: 'running', id: 'running', 'aria-label': 'Running turn', 'data-response': response },
        make('p', {}, make('span', { class: 'pulse', 'aria-hidden': 'true' }), ' ', make('span', { class: 'words' }, 'writing…')),
        make('div', { class: 'growing plain', 'aria-busy': 'true', dir: 'auto' }), stopForm(response));
      const composer = find('.composer', find('#end') || document);
      if (composer) composer.before(box); else (find('#end') || find('main')).append(box);
    }
    find('.growing', box).textContent = '';
    texts.clear();
    if (!followable) find('.words', box).textContent = 'writing… (its text can’t be followed, it had begun before)';
  }

  function stopForm(response) {
    const conversation = location.pathname.match(/^\/ui\/c\/[^/]+/);
    if (!conversation) return '';
    return make('form', { method: 'post', action: `${conversation[0]}/stop` },
      make('input', { type: 'hidden', name: 'branch', value: (waiting && waiting.branch) || body.dataset.branch || '' }),
      make('input', { type: 'hidden', name: 'response', value: response }), make('button', {}, 'Stop'));
  }

  const texts = new Map(); // place in the response → its text so far
  let drawing = 0;
  function grow({ item, part, kind, text }) {
    if (!find('#running')) return;
    const place = `${item} ${part} ${kind}`;
    texts.set(place, (texts.get(place) || '') + text);
    if (!drawing) drawing = requestAnimationFrame(draw);
  }

  function draw() {
    drawing = 0;
    const box = find('#running');
    if (!box) return;
    const growing = find('.growing', box);
    const follows = nearEnd();
    const shown = [...texts].map(([place, text]) => (place.endsWith(' text') || place.endsWith(' refusal') ? text : `▸ ${text}`));
    growing.textContent = shown.join('\n\n');
    const words = growing.textContent.split(/\s+/).filter(Boolean).length;
    find('.words', box).textContent = `writing… ${words} ${words === 1 ? 'word' : 'words'}`;
    if (follows) box.scrollIntoView({ block: 'end' });
  }

  function nearEnd() {
    return innerHeight + scrollY >= document.documentElement.scrollHeight - 160;
  }

  /** A response has ended: what the server makes of it takes the place of the growing text. */
  async function end({ response, status, error }) {
    const mine = waiting && waiting.response === response ? waiting : null;
    if (mine) waiting = null;
    const failed = error || (status && status !== 'completed' && status !== 'incomplete');
    if (mine && !mine.stays && !failed) {
      location.assign(mine.location);
      return;
    }
    if (mine && mine.live) { hush(); listen(); }
    if (!failed) await refresh();
    const box = find('#running');
    if (box && box.dataset.response === response) box.remove();
    if (failed) fail({ message: (error && error.message) || `The answer ended as ${status}.`, code: error && error.code, response: status && response });
    else say(status === 'incomplete' ? 'Answer incomplete' : 'Answer complete');
    if (mine) lock(mine.form, false);
  }

  /** Loads what changed: the rows behind those that are the same, what is above and beside them. */
  function refresh() {
    refreshing = refreshing || (async () => {
      try {
        const url = new URL(location.href);
        if (body.dataset.tip === 'yes') ['around', 'before', 'after', 'at'].forEach((name) => url.searchParams.delete(name));
        url.searchParams.set('branch', body.dataset.branch || '');
        const fresh = await load(url);
        if (!find('#thread', fresh)) return;
        if (body.dataset.tip === 'yes') merge(fresh);
        for (const part of ['.side', '.head .tools']) {
          const [old, now] = [find(part), find(part, fresh)];
          if (old && now && !old.contains(document.activeElement)) old.replaceWith(now);
        }
        const heading = find('h1', fresh);
        if (heading) find('h1').textContent = heading.textContent;
        prepare();
      } finally {
        refreshing = null;
      }
    })();
    return refreshing;
  }

  function merge(fresh) {
    const thread = find('#thread');
    const rows = [...find('#thread', fresh).children].filter((row) => !row.matches('.pager.earlier'));
    const known = new Map(all('.item[id]', thread).map((item) => [item.id, item]));
    const last = rows.findLastIndex((row) => known.has(row.id));
    if (last < 0) { thread.replaceChildren(...find('#thread', fresh).childNodes); return; }
    const follows = nearEnd();
    const anchor = known.get(rows[last].id);
    while (anchor.nextSibling) anchor.nextSibling.remove();
    thread.append(...rows.slice(last + 1));
    if (follows && last + 1 < rows.length) find('#end').scrollIntoView({ block: 'end' });
  }

  // --- live: the list ------------------------------------------------------------------------------------------------

  function listenToList() {
    if (!body.dataset.list || source || document.hidden || !window.EventSource) return;
    source = new EventSource(new URL(body.dataset.list, location.href));
    source.addEventListener('change', (event) => {
      const { newer } = JSON.parse(event.data);
      const line = find('#newer');
      line.hidden = false;
      find('a', line).textContent = `${newer} newer · Refresh`;
    });
  }

  // --- forms that ask the model --------------------------------------------------------------------------------------

  async function submit(form) {
    const data = new URLSearchParams(new FormData(form));
    lock(form, true);
    all('.problem', form.parentElement).forEach((one) => one.remove());
    try {
      const answer = await fetch(form.action, {
        method: 'POST', body: data, headers: { Accept: 'application/json' }, credentials: 'same-origin',
      });
      const told = await answer.json();
      if (!answer.ok) { fail(told.error, form); lock(form, false); return; }
      accept(form, data, told);
    } catch {
      fail({ message: 'The server did not answer. Whether it took this is not known.' }, form);
      lock(form, false);
    }
  }

  /** A turn was begun: it is shown where it will be, or where it is, once it has ended. */
  function accept(form, data, told) {
    const conversation = location.pathname.match(/^\/ui\/c\/[^/]+$/);
    if (!told.response || !told.live || !conversation) { location.assign(told.location); return; }
    const stays = form.matches('.composer') && !data.get('at') && body.dataset.tip === 'yes';
    waiting = { response: told.response, location: told.location, branch: told.branch, form, stays, live: stays ? '' : told.live };
    if (stays) {
      const asked = make('article', { class: 'item user pending', 'aria-label': 'user' },
        make('header', {}, make('h2', {}, 'user')), make('div', { class: 'body plain', dir: 'auto' }, data.get('message')));
      find('#thread').append(asked);
      find('textarea', form).value = '';
    } else {
      hush();
    }
    begin({ response: told.response, followable: true });
    listen();
    find('#running').scrollIntoView({ block: 'nearest' });
    say('The answer is being written');
  }

  function lock(form, busy) {
    all('button', form).forEach((button) => { button.disabled = busy; });
    form.setAttribute('aria-busy', String(busy));
  }

  function fail(error, form) {
    const box = make('div', { class: 'problem', role: 'alert' }, make('b', {}, error.message || 'That did not work.'));
    if (error.code || error.param) box.append(make('span', { class: 'meta' }, [error.code, error.param].filter(Boolean).join(' · ')));
    if (error.code === 'conversation_locked') box.append(make('a', { href: '#end' }, 'A turn runs on this branch: watch it'));
    if (error.response) box.append(make('a', { href: `/ui/r/${error.response}` }, 'its response'));
    all('.item.pending').forEach((one) => one.remove());
    const place = form || find('.composer');
    if (place) place.before(box); else find('main').prepend(box);
    box.scrollIntoView({ block: 'nearest' });
  }

  /** Opens a form of an item's own screen below the item. */
  async function open(link) {
    const item = link.closest('.item');
    const old = item.nextElementSibling;
    if (old && old.matches('.inline-form')) {
      old.remove();
      if (old.dataset.form === link.dataset.form) return;
    }
    const screen = await load(link.href);
    const form = find(`#${link.dataset.form} form`, screen);
    if (!form) { location.assign(link.href); return; }
    const close = make('button', { type: 'button', class: 'quiet' }, 'Close');
    const box = make('div', { class: 'inline-form', 'data-form': link.dataset.form, role: 'group', 'aria-label': link.getAttribute('aria-label') }, form, close);
    close.addEventListener('click', () => { box.remove(); link.focus(); });
    item.after(box);
    const field = find('textarea, input:not([type=hidden]):not([type=radio])', box);
    if (field) field.focus();
    box.scrollIntoView({ block: 'nearest' });
  }

  // --- keys ----------------------------------------------------------------------------------------------------------

  const HELP = [
    ['j, k', 'next, previous item'], ['[, ]', 'previous, next alternative of the item'], ['b', 'branches'],
    ['c', 'write a message'], ['/', 'find in this conversation, or an id'], ['?', 'this help'],
  ];

  function current() {
    return document.activeElement && document.activeElement.closest('.item');
  }

  function step(by) {
    const items = all('.item', find('#thread') || document);
    if (!items.length) return;
    const here = current();
    const index = here ? items.indexOf(here) + by : items.findIndex((item) => item.getBoundingClientRect().bottom > 80);
    const target = items[Math.max(0, Math.min(items.length - 1, index))];
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: 'nearest' });
  }

  function alternative(direction) {
    const here = current() || all('.item').find((item) => find('.alternatives', item) && item.getBoundingClientRect().top >= 0);
    const link = here && find(`.alternatives a[rel=${direction}]`, here);
    if (link) link.click();
  }

  function help() {
    const old = find('.keys-help');
    if (old) { old.close(); return; }
    const list = make('dl', {}, ...HELP.flatMap(([key, text]) => [
      make('dt', {}, ...key.split(', ').flatMap((one, i) => [...(i ? [' '] : []), make('kbd', {}, one)])), make('dd', {}, text)]));
    const close = make('button', {}, 'Close');
    const dialog = make('dialog', { class: 'keys-help', 'aria-labelledby': 'keys-title' }, make('h2', { id: 'keys-title' }, 'Keys'), list, close);
    close.addEventListener('click', () => dialog.close());
    dialog.addEventListener('close', () => dialog.remove());
    body.append(dialog);
    dialog.showModal();
  }

  const KEYS = {
    j: () => step(1), k: () => step(-1), '[': () => alternative('prev'), ']': () => alternative('next'), '?': help,
    b: () => { const path = location.pathname.match(/^\/ui\/c\/[^/]+/); if (path) location.assign(`${path[0]}/branches`); },
    c: () => { const field = find('#message'); if (field) field.focus(); },
    '/': () => { const field = find('input[name=q]') || find('.go input'); if (field) field.focus(); },
  };

  document.addEventListener('keydown', (event) => {
    const target = event.target;
    if ((event.ctrlKey || event.metaKey) && event.key === 'Enter' && target.matches('textarea')) {
      target.form.requestSubmit();
      return;
    }
    if (body.dataset.keys !== 'on' || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (target.isContentEditable || target.matches('input, textarea, select') || find('dialog[open]')) return;
    const act = KEYS[event.key];
    if (act) { event.preventDefault(); act(); }
  });

  function offerKeys() {
    const button = find('#keys');
    if (!button) return;
    button.hidden = false;
    button.addEventListener('click', () => {
      const on = body.dataset.keys !== 'on';
      body.dataset.keys = on ? 'on' : 'off';
      button.textContent = `Keys: ${on ? 'on' : 'off'}`;
      document.cookie = `branchline_keys=${on ? 'on' : 'off'}; path=/ui; max-age=31536000; samesite=strict`;
      say(on ? 'Keys are on; ? shows them' : 'Keys are off');
    });
  }

  // --- what is listened to -------------------------------------------------------------------------------------------

  document.addEventListener('click', (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const link = event.target.closest && event.target.closest('a[data-insert], a[data-form]');
    if (!link) return;
    event.preventDefault();
    const work = link.dataset.insert ? insert(link) : open(link);
    work.catch(() => location.assign(link.href));
  });

  document.addEventListener('submit', (event) => {
    const form = event.target;
    if (form.matches('[data-turn]')) {
      event.preventDefault();
      submit(form);
    } else if (form.action.endsWith('/stop')) {
      event.preventDefault();
      lock(form, true);
      fetch(form.action, { method: 'POST', body: new URLSearchParams(new FormData(form)), headers: { Accept: 'application/json' } })
        .then(() => say('Stopping…'), () => form.submit());
    }
  });

  document.addEventListener('change', (event) => {
    if (event.target.matches('.branch-choice select')) event.target.form.requestSubmit();
  });

  document.addEventListener('click', (event) => {
    // a menu closes when something else is meant
    all('.menu[open]').forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
  });

  // browsers allow six connections to a host: one that nobody looks at gives its own back
  document.addEventListener('visibilitychange', () => { if (document.hidden) hush(); else start(); });
  window.addEventListener('pagehide', hush);
  window.addEventListener('pageshow', (event) => { if (event.persisted) start(); });

  function prepare() {
    all('.branch-choice button').forEach((button) => { button.hidden = true; });
  }

  function start() {
    if (body.dataset.list) listenToList(); else listen();
  }

  const hash = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (hash && hash.matches('details')) hash.open = true;
  if (hash && hash.matches('.item')) hash.focus({ preventScroll: true });
  prepare();
  offerKeys();
  start();
})();
