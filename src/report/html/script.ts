/**
 * What the page does by itself: filter and search, explanations on hover, focus and touch. It only shows and hides what is
 * there, and reads text as text: nothing that came from a trace is ever taken for markup.
 */

export const SCRIPT = `
'use strict';
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const cases = all('.case');
  const search = document.getElementById('search') || document.createElement('input');
  const count = document.getElementById('count') || document.createElement('span');
  const chips = all('.tools button[data-outcome]');
  let outcome = 'all';
  const texts = new Map();
  const textOf = (each) => {
    if (!texts.has(each)) texts.set(each, each.textContent.toLowerCase());
    return texts.get(each);
  };
  const apply = () => {
    const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const each of cases) {
      const fits = (outcome === 'all' || each.dataset.outcome === outcome) && words.every((word) => textOf(each).includes(word));
      each.hidden = !fits;
      if (fits) shown++;
    }
    for (const row of all('.firsts tr[data-case]')) row.hidden = document.getElementById(row.dataset.case).hidden;
    count.textContent = shown + ' of ' + cases.length + ' shown';
  };
  for (const chip of chips) {
    chip.addEventListener('click', () => {
      outcome = chip.dataset.outcome;
      for (const other of chips) other.setAttribute('aria-pressed', String(other === chip));
      apply();
    });
  }
  search.addEventListener('input', apply);
  document.getElementById('open')?.addEventListener('click', (event) => {
    const open = event.target.getAttribute('aria-pressed') !== 'true';
    event.target.setAttribute('aria-pressed', String(open));
    for (const each of cases) if (!each.hidden) each.open = open;
  });

  const reveal = () => {
    let id = '';
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const target = id === '' ? null : document.getElementById(id);
    for (let each = target; each; each = each.parentElement) if (each.tagName === 'DETAILS') each.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener('hashchange', reveal);
  for (const link of all('a[href^="#"]')) link.addEventListener('click', () => setTimeout(reveal));

  const tip = document.getElementById('tip');
  let owner = null;
  const hide = () => {
    tip.hidden = true;
    if (owner) owner.removeAttribute('aria-describedby');
    owner = null;
  };
  const show = (element, text, box) => {
    if (owner && owner !== element) hide();
    owner = element;
    tip.textContent = text;
    tip.hidden = false;
    element.setAttribute('aria-describedby', 'tip');
    const width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(box.left, width - tip.offsetWidth - 8));
    const below = box.bottom + 6 + tip.offsetHeight < innerHeight || box.top < tip.offsetHeight + 12;
    tip.style.left = left + scrollX + 'px';
    tip.style.top = (below ? box.bottom + 6 : box.top - tip.offsetHeight - 6) + scrollY + 'px';
  };
  const withTip = (target) => (target instanceof Element ? target.closest('[data-tip]') : null);
  const enter = (event) => {
    const element = withTip(event.target);
    if (element) show(element, element.dataset.tip, element.getBoundingClientRect());
  };
  document.addEventListener('pointerover', enter);
  document.addEventListener('focusin', enter);
  document.addEventListener('click', (event) => {
    const element = withTip(event.target);
    if (element) enter(event);
    else if (!tip.contains(event.target) && !(event.target instanceof Element && event.target.closest('.timeline'))) hide();
  });
  document.addEventListener('pointerout', (event) => {
    const element = withTip(event.target);
    if (element && element === owner && document.activeElement !== element && !tip.contains(event.relatedTarget)) hide();
  });
  document.addEventListener('focusout', hide);
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') hide();
    const typing = event.target instanceof Element && event.target.matches('input');
    if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      search.focus();
    }
  });

  for (const line of all('.timeline')) {
    const spans = line.dataset.spans.split('\\n');
    const picture = line.querySelector('svg');
    const cursors = all('.cursor', line);
    const cut = (path) => { for (const cursor of cursors) cursor.setAttribute('d', path); };
    let at = -1;
    const point = (span) => {
      at = Math.max(0, Math.min(spans.length - 1, span));
      cut('M' + (at + 0.5) + ' 0v' + line.dataset.height);
      const box = line.getBoundingClientRect();
      const left = box.left + ((at + 0.5) / spans.length) * box.width;
      show(line, spans[at], { left, bottom: box.bottom, top: box.top });
    };
    const follow = (event) => {
      const box = picture.getBoundingClientRect();
      point(Math.floor(((event.clientX - box.left) / box.width) * spans.length));
    };
    line.addEventListener('pointermove', follow);
    line.addEventListener('pointerdown', follow);
    line.addEventListener('pointerleave', () => { cut(''); if (owner === line) hide(); });
    line.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      point((at < 0 ? 0 : at) + step);
    });
    line.addEventListener('focus', () => point(at < 0 ? 0 : at));
    line.addEventListener('blur', () => cut(''));
  }
  apply();
  reveal();
})();
`;
