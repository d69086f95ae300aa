// thaw floor 7 probe: the standard containers with a counting allocator, under their own names: thaw::vector<T> is
// std::vector<T, thaw::allocator<T>>, and plain std::vector<T> where THAW_ENABLED is 0. A leaf: include it where it is used.
//
//   thaw::vector<line> lines{THAW_ALLOCATOR("cart.lines")};
//   thaw::unordered_map<int, thaw::string> names{THAW_ALLOCATOR("names")};
//
// The elements of a container keep allocators of their own: the strings in `names` count where they were given a site.
#ifndef THAW_PROBE_CONTAINERS_HPP
#define THAW_PROBE_CONTAINERS_HPP

#include <thaw/probe/allocator.hpp>

#include <deque>
#include <forward_list>
#include <functional>
#include <list>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

THAW_DETAIL_BEGIN

template <class T>
using vector = std::vector<T, allocator<T>>;
template <class T>
using deque = std::deque<T, allocator<T>>;
template <class T>
using list = std::list<T, allocator<T>>;
template <class T>
using forward_list = std::forward_list<T, allocator<T>>;

template <class C, class Traits = std::char_traits<C>>
using basic_string = std::basic_string<C, Traits, allocator<C>>;
using string = basic_string<char>;
using wstring = basic_string<wchar_t>;
using u8string = basic_string<char8_t>;
using u16string = basic_string<char16_t>;
using u32string = basic_string<char32_t>;

template <class K, class Less = std::less<K>>
using set = std::set<K, Less, allocator<K>>;
template <class K, class Less = std::less<K>>
using multiset = std::multiset<K, Less, allocator<K>>;
template <class K, class V, class Less = std::less<K>>
using map = std::map<K, V, Less, allocator<std::pair<K const, V>>>;
template <class K, class V, class Less = std::less<K>>
using multimap = std::multimap<K, V, Less, allocator<std::pair<K const, V>>>;

template <class K, class Hash = std::hash<K>, class Equal = std::equal_to<K>>
using unordered_set = std::unordered_set<K, Hash, Equal, allocator<K>>;
template <class K, class Hash = std::hash<K>, class Equal = std::equal_to<K>>
using unordered_multiset = std::unordered_multiset<K, Hash, Equal, allocator<K>>;
template <class K, class V, class Hash = std::hash<K>, class Equal = std::equal_to<K>>
using unordered_map = std::unordered_map<K, V, Hash, Equal, allocator<std::pair<K const, V>>>;
template <class K, class V, class Hash = std::hash<K>, class Equal = std::equal_to<K>>
using unordered_multimap = std::unordered_multimap<K, V, Hash, Equal, allocator<std::pair<K const, V>>>;

THAW_DETAIL_END

#endif
